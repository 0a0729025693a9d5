"""The component that README.md, docs/plugins.md and the example plugin show is one, and sound."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from gaekit.api import Draws, GeneratorDraws, Latent
from gaekit.testing import check_component

TOP = Path(__file__).parents[1]
COUNT = 20_000


def block(file: str) -> str:
    """The first block of Python of a page."""
    found = re.search(r"```python\n(.*?)```", (TOP / file).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found
    return found[1]


def ran(file: str) -> Any:
    """The noise that a page's first block of Python, or a module, provides."""
    text = (TOP / file).read_text(encoding="utf-8") if file.endswith(".py") else block(file)
    module = sys.modules["laplace_of_" + re.sub(r"\W", "_", file)] = ModuleType(
        "laplace_of_" + re.sub(r"\W", "_", file)
    )
    exec(compile(text, file, "exec", dont_inherit=True), module.__dict__)
    return next(cls for cls in module.gaekit_components() if cls.kind == "noise")


FILES = ("README.md", "docs/plugins.md", "tests/example_plugin/gaekit_example.py")


@pytest.fixture(params=FILES)
def laplace(request: pytest.FixtureRequest) -> Any:
    return ran(request.param)


class Constant(Draws):
    """The same number, and its negative from the second call on."""

    def __init__(self, number: float):
        self.number = number

    def normal(self, *tail: int) -> Tensor:
        number, self.number = self.number, 0.0
        return torch.full((2, *tail), number)

    def uniform(self) -> Tensor:
        return torch.zeros(2)


def test_both_pages_show_one_text() -> None:
    assert block("README.md") == block("docs/plugins.md")
    assert len([line for line in block("README.md").splitlines() if line]) <= 20


def test_it_keeps_the_contract(laplace: Any) -> None:
    check_component(laplace)
    check_component(laplace, scale=3.0)


def perturbed(cls: Any, draws: Draws, **settings: Any) -> Tensor:
    latent = Latent(torch.zeros(2, 3, 2, 2), 0.5)
    z: Tensor = cls(cls.Config(use="laplace", **settings)).perturb(latent, draws)
    return z


def test_it_is_one_component_everywhere() -> None:
    classes = [ran(file) for file in FILES]
    assert len({str(cls.Config.model_json_schema()["properties"]["scale"]) for cls in classes}) == 1
    made = [perturbed(cls, GeneratorDraws(2, torch.Generator().manual_seed(1))) for cls in classes]
    assert all(torch.equal(made[0], other) for other in made)


@pytest.mark.parametrize("number", [0.0, 1e-30, 5.6, -6.0, 9.0, -40.0, 1e15, torch.finfo(torch.float32).eps])
def test_no_number_that_a_generator_can_draw_makes_it_infinite(laplace: Any, number: float) -> None:
    """float32 erf is 1 from 5.6 on; normals of float32 end before 10."""
    assert bool(torch.isfinite(perturbed(laplace, Constant(number))).all())


def test_it_is_laplace_of_its_scale(laplace: Any) -> None:
    latent = Latent(torch.full((COUNT, 1, 1, 1), 0.4), 0.5)
    z = laplace(laplace.Config(use="laplace", scale=2.0)).perturb(
        latent, GeneratorDraws(COUNT, torch.Generator().manual_seed(0))
    )
    check: Callable[..., Any] = stats.kstest
    assert check(z.flatten().numpy(), stats.laplace(0.4, 1.0).cdf).pvalue > 0.01
