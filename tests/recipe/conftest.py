"""A recipe that is right, a registry with some unusual components, and ways to say what is wrong with a change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, model_validator

from gaekit.api import ComponentConfig, Dataset, Denoiser, ImageSource, Metric, Sampler, Slot
from gaekit.errors import RecipeError
from gaekit.plugins import Plugin, Registry, load_plugins
from gaekit.recipe import load_recipe
from gaekit.recipe.schema import Recipe

BASE = """\
# A recipe that is right.
recipe: 1
name: base
image: {size: 32, stride: 8}
latent_dim: 8
dataset: {use: toy, root: nowhere}
teacher: {use: efficientnet_lite0}
aligner: {use: latent}
semantic:
  train: {steps: 10, batch: 8}
autoencoder:
  encoder: {use: vit, depth: 1, width: 32, heads: 2}
  decoder: {use: vit, depth: 1, width: 32, heads: 2}
  regularizer: {use: rms_norm}
  noise:
    use: dynamic
    sigma: 0.2
  perceptual:
    use: teacher
    teacher: {use: efficientnet_lite0, layer: stage2}
  adversary: {start: 0.5}
  train:
    steps: 20
    batch: 8
    lr: 1e-3
latents: {}
diffusion:
  denoiser: {use: lightning_dit, depth: 1, width: 32, heads: 2}
  times: {use: uniform}
  train: {steps: 20, batch: 8}
sample:
  sampler: {use: euler, steps: 4}
  guidance: {scale: 2.0}
  count: 10
evaluate:
  metrics:
    - use: psnr
    - use: ssim
"""


class Toy(Dataset):
    """A data set that nobody looks into."""

    name = "toy"

    class Config(ComponentConfig):
        root: str = Field(description="where it would be")
        fraction: float | None = Field(default=None, gt=0, description="of something")
        shift: bool = Field(default=False, description="or not")
        parts: tuple[Part, ...] = Field(default=(), description="sections with slots, any number")
        extra: Annotated[tuple[ComponentConfig, ...], Slot("metric"), Field(min_length=1)] = Field(
            default=(ComponentConfig(use="psnr"),), description="a list of components"
        )

        @model_validator(mode="after")
        def check_shift(self) -> Toy.Config:
            if self.shift and self.fraction is None:
                raise ValueError("shift needs a fraction")
            return self

    def train(self) -> ImageSource:
        raise NotImplementedError

    validation = train

    def digest(self) -> str:
        return "0" * 64


class Part(BaseModel):
    """A section with a slot, inside a component's config."""

    model_config = {"extra": "forbid", "frozen": True}

    teacher: Annotated[ComponentConfig, Slot("teacher")] = Field(alias="by")
    weight: float = 1.0


Toy.Config.model_rebuild()


class Picky(Sampler):
    """Needs what no path offers."""

    name = "picky"
    needs = frozenset({"variance", "curvature"})
    sample = Sampler.sample


class Judge(Metric):
    """Judges samples."""

    name = "judge"
    needs = "samples"


@pytest.fixture(scope="session")
def registry() -> Registry:
    found = load_plugins()
    plugin = Plugin("test", "test", "0", __name__)
    Picky.__abstractmethods__ = Judge.__abstractmethods__ = frozenset()
    for cls in (Toy, Picky, Judge):
        found.add(cls, plugin)
    assert issubclass(found.classes["denoiser"]["lightning_dit"], Denoiser)
    return found


@pytest.fixture
def base() -> str:
    return BASE


Change = tuple[str, str]
Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """The base recipe, or another text, with some text replaced; each must be there once."""

    def write(*changes: Change, text: str = BASE) -> Path:
        for old, new in changes:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the recipe"
            text = text.replace(old, new)
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(registry: Registry, write: Callable[..., Path]) -> Load:
    def load(*changes: Change, overrides: tuple[str, ...] = (), **others: str) -> Recipe:
        return load_recipe(write(*changes, **others), registry, overrides=overrides)

    return load


@pytest.fixture
def problems(load: Load) -> Problems:
    """What is wrong after changes, a string each: `12: a.b: text`, or `--set a=b: a: text`."""

    def problems(*changes: Change, overrides: tuple[str, ...] = (), **others: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(*changes, overrides=overrides, **others)
        source = caught.value.source
        return [line.removeprefix(f"{source}:") for line in str(caught.value).splitlines()]

    return problems
