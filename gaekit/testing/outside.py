"""Promises about settings: that they are described and survive JSON, what they need from outside, and that a setting
which means nothing is told as that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from gaekit.api import Asset, Component, ComponentConfig, GaekitError, Teacher
from gaekit.guard import BrokenPromise, expect
from gaekit.plugins import slots

ABSURD: tuple[Any, ...] = ("nothing of this name", 999_983, -999_983)
"""Values that name no layer, model, file or size."""


def check_config(cls: type[Component], settings: Mapping[str, Any]) -> ComponentConfig:
    """The config of a component: described, closed, and the same after a trip through JSON."""
    expect(bool((cls.__doc__ or "").strip()), "a component has a docstring")
    for name, info in cls.Config.model_fields.items():
        expect(name == "use" or bool(info.description), f"setting '{name}' has a description")
    expect(cls.Config.model_config.get("extra") == "forbid", "Config refuses unknown keys")
    expect(bool(cls.Config.model_config.get("frozen")), "Config is frozen")
    try:
        config = cls.Config(use=cls.name, **settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BrokenPromise(f"these settings do not fit Config of {cls.kind} '{cls.name}': {wrong}") from None
    dumped = config.model_dump(mode="json", by_alias=True)
    if not slots(cls.Config):  # what stands in slots is typed again by the loader of recipes
        try:
            again = cls.Config.model_validate_json(json.dumps(dumped), strict=True)
        except ValidationError as error:
            raise BrokenPromise(f"promised: Config survives JSON; gave: {error}") from None
        expect(again == config, "Config survives JSON", f"{again!r} in place of {config!r}")
    json.dumps(dumped)
    return config


def check_outside(cls: type[Component], config: ComponentConfig, settings: Mapping[str, Any]) -> None:
    """`external`, `assets` and a teacher's `width`: stable, of the right types, and a GaekitError, nothing else, where
    a setting means nothing."""
    identity, assets = cls.external(config), cls.assets(config)
    expect(identity is None or isinstance(identity, str), "`external` gives a text or None", identity)
    expect(identity == cls.external(config), "`external` gives the same twice", identity)
    right = isinstance(assets, tuple) and all(isinstance(asset, Asset) for asset in assets)
    expect(right, "`assets` gives a tuple of gaekit.api.Asset", assets)
    expect(not assets or identity is not None, "what needs files says by `external` which they are", "None")
    for asset in assets:
        expect(bool(asset.what), "an asset says what it is")
        expect(asset.identity == asset.identity and bool(asset.identity), "an asset has an identity", asset.identity)
    for what, absurd in absurd_settings(cls, settings):
        for method in ("external", "assets", "width") if issubclass(cls, Teacher) else ("external", "assets"):
            try:
                getattr(cls, method)(absurd)
            except GaekitError:
                continue
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise BrokenPromise(
                    f"promised: `{method}` of {what} gives or raises a GaekitError; gave: {told}"
                ) from error


def absurd_settings(cls: type[Component], settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Configs that are valid and in which one setting names something that cannot be."""
    held = slots(cls.Config)
    for name in cls.Config.model_fields:
        for value in () if name == "use" or name in held else ABSURD:
            try:
                yield f"{name} = {value!r}", cls.Config(use=cls.name, **{**settings, name: value})
            except ValidationError:
                continue
