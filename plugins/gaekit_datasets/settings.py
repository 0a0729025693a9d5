"""Settings that several data sets have in common."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gaekit.api import ComponentConfig

RGB = tuple[int, int, int]


class BackgroundConfig(ComponentConfig):
    """What lies under images that are not opaque."""

    background: str = Field(
        default="white",
        pattern=r"^(white|black|#[0-9a-fA-F]{6})$",
        description="what shows through transparency: white, black or '#rrggbb'",
    )

    @property
    def color(self) -> RGB:
        """What `background` names."""
        named: dict[str, RGB] = {"white": (255, 255, 255), "black": (0, 0, 0)}
        if self.background in named:
            return named[self.background]
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue


class ImageConfig(BackgroundConfig):
    """How images that are odd are taken."""

    on_bad_image: Literal["error", "skip"] = Field(default="error", description="skip: go on without it, and count")

    @property
    def decides_pixels(self) -> dict[str, Any]:
        """These settings as they enter a digest: white is white by any name."""
        return {"background": self.color, "on_bad_image": self.on_bad_image}


def fraction_or_text(value: Any, text: str) -> Any:
    """A `validation` setting: a fraction, or what `text` says; raises ValueError for what is neither."""
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        raise ValueError(f"give a fraction between 0 and 1, or {text}")
    if not isinstance(value, str) and not 0 < value < 1:
        raise ValueError(f"{value:g} is no fraction between 0 and 1; 0.1 holds out a tenth")
    return value


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
