"""Plugins are found, guarded and named: a broken one stops nothing but a recipe that needs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from plugin_helpers import EXAMPLE, install
from pydantic import Field
from recipe_helpers import tiny_recipe
from torch import Tensor

from gaekit.api import (
    Component,
    ComponentConfig,
    GaekitError,
    Metric,
    NoiseSampler,
    Perceptual,
    Regularizer,
    Slot,
    require,
)
from gaekit.cli import main
from gaekit.errors import PluginError, RecipeError
from gaekit.plugins import Plugin, Registry, build, load_plugins, nested, slots, summary
from gaekit.recipe.load import load_section
from gaekit.recipe.schema import Diffusion
from gaekit.testing import check_component

BUILT_IN = [
    "aligners", "autoencoders", "datasets", "denoisers", "metrics", "noises", "perceptual", "regularizers", "samplers",
    "teachers", "times", "trackers",
]  # fmt: skip


def plugin(registry: Registry, name: str) -> Plugin:
    return next(p for p in registry.plugins if p.name == name)


def test_every_built_in_comes_in_by_its_entry_point() -> None:
    registry = load_plugins()
    assert [p.name for p in registry.plugins if p.distribution == "gaekit"] == BUILT_IN
    assert registry.broken == []
    assert all(registry.classes.values())
    assert all(p.api == 1 and p.components and p.seconds > 0 for p in registry.plugins)


def test_each_call_gives_a_registry_of_its_own() -> None:
    first = load_plugins()
    first.classes["noise"].clear()
    assert load_plugins().classes["noise"]


def test_a_third_party_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "gaekit_example", name="example", version="0.3.0"))
    registry = load_plugins()
    found = plugin(registry, "example")
    assert str(found) == "example (gaekit-example-dist 0.3.0)"
    assert found.components == ["noise:laplace", "regularizer:tanh"]
    for kind, name in (("noise", "laplace"), ("regularizer", "tanh")):
        check_component(registry.find(kind, name))


def test_the_example_plugin_installs_as_a_distribution_of_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(target), str(source)], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "gaekit", "plugins", "--json"],
        env={"PYTHONPATH": str(target), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = (p for p in json.loads(shown.stdout) if p["distribution"] == "gaekit-example")
    assert found["name"] == "example"
    assert found["version"] == "0.3.0"
    assert found["status"] == "ok"
    assert found["components"] == ["noise:laplace", "regularizer:tanh"]


@pytest.mark.parametrize("attribution", ["", " ", 3, ("CC BY-SA 4.0",)])
def test_an_attribution_that_says_nothing_is_refused(attribution: object) -> None:
    with pytest.raises(PluginError, match=r"Nameless: attribution = .*; it is text, or None"):
        type("Nameless", (NoiseSampler,), {"name": "nameless", "__doc__": "Noise.", "attribution": attribution})


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raises_at_import", "ImportError: no module named teeth, says the plugin"),
        ("exits_at_import", "SystemExit: go away"),
        ("raises_in_hook", "KeyError: 'teeth'"),
        ("exits_in_hook", "SystemExit: 3"),
        ("returns_nothing", "gaekit_components returns None; return the component classes"),
        ("misspells_hook", "unknown hook 'gaekit_component'"),
        ("has_no_hook", "has no function gaekit_components marked with gaekit.api.hookimpl"),
        ("gives_no_class", "gaekit_components gives 'dynamic', which is no component class"),
        ("breaks_contract", "component breaks_contract.Silent: needs a docstring"),
        ("is_incomplete", "component is_incomplete.Half (noise 'half') does not define: perturb"),
        ("has_wrong_slot", "component has_wrong_slot.Nested: Config.inner has a slot for 'nois'; kinds: aligner, "),
        (
            "needs_newer_api",
            "needs version 99 of gaekit's API, this gaekit has 1: upgrade gaekit, or use an older plugin",
        ),
    ],
)
def test_a_broken_plugin_is_noted_and_stops_nothing_else(
    module: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, module))
    registry = load_plugins()
    found = plugin(registry, module)
    assert registry.broken == [found]
    assert found.error is not None
    assert reason in found.error
    assert "\n" not in found.error
    assert found.components == []
    assert registry.find("noise", "dynamic").name == "dynamic"
    with pytest.raises(PluginError) as caught:
        registry.find("noise", "zzz")
    assert f"note: plugin {found} failed to load: {found.error}" in str(caught.value)

    assert main(["plugins"]) == 0
    assert f"{module} ({module.replace('_', '-')}-dist 1.2), from {module}, is broken: " in capsys.readouterr().out
    assert main(["check", "smoke"]) == 0


def test_an_api_of_the_past_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "needs_newer_api")
    old = (tmp_path / "needs_newer_api.py").read_text().replace("GAEKIT_API = 99", "GAEKIT_API = 1")
    (tmp_path / "needs_newer_api.py").write_text(old)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "needs_newer_api", raising=False)
    assert plugin(load_plugins(), "needs_newer_api").components == ["noise:future"]


CLASH = "noise 'dynamic' is provided by plugin clashes (clashes-dist 1.2) and by plugin noises (gaekit "
REMEDY = "leave one out by GAEKIT_PLUGINS=-clashes, or uninstall it"


@pytest.fixture
def clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "clashes"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("clash")
def test_a_name_of_two_plugins_is_nobodys_and_all_else_works(capsys: pytest.CaptureFixture[str]) -> None:
    registry = load_plugins()
    assert [(p.name, p.clashes) for p in registry.plugins if p.clashes] == [
        ("clashes", ["noise:dynamic"]), ("noises", ["noise:dynamic"])
    ]  # fmt: skip
    assert "dynamic" not in registry.classes["noise"]
    assert "noise:dynamic" not in plugin(registry, "noises").components
    with pytest.raises(PluginError) as caught:
        registry.find("noise", "dynamic")
    assert str(caught.value).startswith(CLASH)
    assert str(caught.value).endswith(REMEDY)

    assert main(["check", "smoke", "--set", "autoencoder.noise={use: uniform}"]) == 0
    assert main(["components"]) == 0
    capsys.readouterr()
    assert main(["plugins"]) == 0
    shown = capsys.readouterr().out
    assert f"clash: {CLASH}" in shown
    assert REMEDY in shown
    assert main(["plugins", "--json"]) == 0
    status = {p["name"]: p["status"] for p in json.loads(capsys.readouterr().out)}
    assert (status["clashes"], status["noises"], status["times"]) == ("clash", "clash", "ok")


@pytest.mark.usefixtures("clash")
def test_what_needs_a_name_of_two_plugins_is_told_where_and_the_remedy_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tiny.yaml").write_text(tiny_recipe())
    assert main(["check", "tiny.yaml"]) == 2
    error = capsys.readouterr().err
    assert f": autoencoder.noise.use: {CLASH}" in error
    assert error.splitlines()[-1] == "1 problem"
    assert main(["components", "noise", "dynamic"]) == 2
    assert CLASH in capsys.readouterr().err
    monkeypatch.setenv(*REMEDY.split(",")[0].split()[-1].split("="))  # as it was printed
    assert main(["check", "tiny.yaml"]) == 0
    assert main(["plugins"]) == 0
    assert "clash" not in capsys.readouterr().out
    monkeypatch.setenv("GAEKIT_PLUGINS", "clashes")
    assert load_plugins().find("noise", "dynamic").__module__ == "clashes"


def test_a_plugin_that_gives_one_name_twice_is_broken(forest: Registry) -> None:
    with pytest.raises(PluginError, match="gives two components of the name regularizer 'leaf'"):
        forest.add(Leaf, Plugin("forest", "forest", "1", "forest"))


def test_a_broken_plugin_is_mentioned_beside_a_near_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "raises_at_import"))
    (tmp_path / "tiny.yaml").write_text(tiny_recipe("autoencoder: {noise: {use: dynamics}}"))
    assert main(["check", str(tmp_path / "tiny.yaml")]) == 2
    error = capsys.readouterr().err
    assert "unknown noise 'dynamics' -- did you mean 'dynamic'?\n" in error
    assert "note: plugin raises_at_import (raises-at-import-dist 1.2) failed to load: ImportError" in error


def test_a_plugin_that_prints_and_warns_leaves_the_output_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "is_loud"))
    assert main(["plugins", "--json"]) == 0
    out, err = capsys.readouterr()
    (found,) = (p for p in json.loads(out) if p["name"] == "is_loud")
    assert found["seconds"] >= 0.2
    assert "hello from the plugin" in err


def test_what_loads_is_limited_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAEKIT_PLUGINS", "noises, times")
    assert [p.name for p in load_plugins().plugins] == ["noises", "times"]
    monkeypatch.setenv("GAEKIT_PLUGINS", "")
    assert load_plugins().plugins == []
    monkeypatch.setenv("GAEKIT_PLUGINS", "-noises, -times")
    assert [p.name for p in load_plugins().plugins] == [n for n in BUILT_IN if n not in ("noises", "times")]
    monkeypatch.setenv("GAEKIT_PLUGINS", "noises,times,-times")
    assert [p.name for p in load_plugins().plugins] == ["noises"]
    monkeypatch.setenv("GAEKIT_PLUGINS", "noises,nosies")
    with pytest.raises(PluginError, match=r"GAEKIT_PLUGINS names unknown plugins: nosies; installed: aligners, "):
        load_plugins()


class Leaf(Regularizer):
    """A leaf."""

    name = "leaf"

    class Config(ComponentConfig):
        depth: int = Field(default=1, description="of the leaf")

    def forward(self, moments_BMHW: Tensor) -> Any:
        return moments_BMHW


class Tree(Perceptual):
    """Holds others."""

    name = "tree"

    class Config(ComponentConfig):
        one: Annotated[ComponentConfig, Slot("regularizer")] = Field(description="one")
        maybe: Annotated[ComponentConfig | None, Slot("regularizer")] = Field(default=None, description="or none")
        many: Annotated[tuple[ComponentConfig, ...], Slot("regularizer")] = Field(default=(), description="many")

    def __init__(self, config: Any, *, image_size: int, one: Any, maybe: Any, many: Any):
        super().__init__(config, image_size=image_size)
        self.one, self.maybe = one(latent_dim=2, grid=4), maybe
        self.many = torch.nn.ModuleList(make(latent_dim=3, grid=4) for make in many)

    def forward(self, image_B3RR: Tensor, other_B3RR: Tensor) -> Tensor:
        return image_B3RR.mean((1, 2, 3))


@pytest.fixture
def forest() -> Registry:
    registry = Registry()
    for cls in (Leaf, Tree):
        registry.add(cls, Plugin("forest", "forest", "1", "forest"))
    return registry


def test_what_stands_in_slots_is_built_by_the_owner(forest: Registry) -> None:
    leaf = Leaf.Config(use="leaf", depth=5)
    config = Tree.Config(use="tree", one=leaf, many=(leaf, leaf))
    tree: Any = build(Perceptual, config, forest, image_size=8)
    assert type(tree) is Tree
    assert tree.one.config is leaf
    assert tree.one.latent_dim == 2
    assert tree.maybe is None
    assert [inner.latent_dim for inner in tree.many] == [3, 3]


def test_slots_and_what_is_in_them_are_told(forest: Registry) -> None:
    assert slots(Tree.Config) == {"one": "regularizer", "maybe": "regularizer", "many": "regularizer"}
    assert slots(Leaf.Config) == {}
    leaf = Leaf.Config(use="leaf")
    assert list(nested(Tree.Config(use="tree", one=leaf, many=(leaf,)))) == [("regularizer", leaf)] * 2


def test_a_component_is_summed_up_by_its_first_sentence() -> None:
    class Wordy(Leaf):
        """A leaf whose first sentence goes on
        in a second line. Then there is more.

        And more.
        """

        name = "wordy"

    assert summary(Wordy) == "A leaf whose first sentence goes on in a second line."
    assert summary(Leaf) == "A leaf."


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Similarity (Wang et al. 2004): windows of 11. It counts.", "Similarity (Wang et al. 2004): windows of 11."),
        ("After Wang et al. with windows, e.g. 11. It counts.", "After Wang et al. with windows, e.g. 11."),
        ("As in Fig. 3, i.e. eq. 4 of J. Doe's paper. More.", "As in Fig. 3, i.e. eq. 4 of J. Doe's paper."),
        ("Levels in [0, 1) of a number. More.", "Levels in [0, 1) of a number."),
        ("Compares a (see there. It is long) with b. Then more.", "Compares a (see there. It is long) with b."),
        ("A grid of 16. A step of .5. No more.", "A grid of 16."),
        ("One sentence without a stop", "One sentence without a stop."),
        ("Ends with et al.", "Ends with et al."),
        ("Of version 2.5.\n\n    More about it.", "Of version 2.5."),
    ],
)  # fmt: skip
def test_a_summary_is_the_whole_first_sentence(text: str, first: str) -> None:
    assert summary(type("Told", (Leaf,), {"__doc__": text})) == first


def test_what_is_shown_of_every_component_is_a_whole_sentence() -> None:
    """Nothing is cut: brackets close, and what follows in the docstring begins a sentence."""
    classes = load_plugins().classes
    for kind, name, cls in [(k, n, c) for k, found in classes.items() for n, c in found.items()]:
        shown, text = summary(cls), " ".join((cls.__doc__ or "").split())
        rest = text.removeprefix(shown)
        assert rest != text, (kind, name)
        assert sum(map(shown.count, "([")) == sum(map(shown.count, ")]")), (kind, name)
        assert not rest or (rest[0] == " " and not rest[1].islower() and not rest[1].isdigit()), (kind, name, rest[:40])


def test_a_name_of_one_kind_is_free_in_another(forest: Registry) -> None:
    class Other(NoiseSampler):
        """A leaf of another kind."""

        name = "leaf"

        def perturb(self, latent: Any, draws: Any) -> Tensor:
            raise NotImplementedError

    forest.add(Other, Plugin("other", "other", "1", "other"))
    assert forest.find("noise", "leaf") is Other
    assert forest.find("regularizer", "leaf") is Leaf


def test_what_installs_an_absent_package_is_told() -> None:
    with pytest.raises(GaekitError, match=r"teacher 'x' needs .*'no_such_package' .*pip install 'gaekit\[data\]'$"):
        require("no_such_package", extra="data", wanted_by="teacher 'x'")
    with pytest.raises(GaekitError, match=r"pip install 'gaekit'$"):  # on which gaekit itself depends
        require("no_such_package", wanted_by="teacher 'x'")


def test_a_class_off_the_kinds_is_refused(forest: Registry) -> None:
    odd = Plugin("odd", "odd", "1", "odd")
    with pytest.raises(PluginError, match="has no name"):
        forest.add(Metric, odd)
    with pytest.raises(PluginError, match="is no component class"):
        forest.add(ComponentConfig, odd)  # type: ignore[arg-type]

    class Stray(Component):
        """Of no kind."""

        kind = "stray"
        name = "stray"

    with pytest.raises(PluginError, match=r"derive it from one of the kinds of gaekit\.api: aligner, dataset"):
        forest.add(Stray, odd)


def test_a_name_that_a_component_no_longer_has_is_refused_with_the_present_one() -> None:
    registry = load_plugins()
    with pytest.raises(PluginError, match=r"unknown denoiser 'ddt'; it is called 'dit_dh' now"):
        registry.find("denoiser", "ddt")
    told = r"use: unknown denoiser 'ddt' -- it is called 'dit_dh' now"
    with pytest.raises(RecipeError, match=told):
        load_section(Diffusion, {"denoiser": {"use": "ddt"}, "times": {"use": "uniform"}}, registry, source="test")
