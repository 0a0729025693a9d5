"""What a plugin's component gives is held to its contract on the first batch, and its faults are told as its own."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_helpers import install
from recipe_helpers import tiny_recipe
from torch import Tensor, nn

from gaekit.api import KINDS, GeneratorDraws
from gaekit.cli import main
from gaekit.errors import PluginError
from gaekit.guard import BrokenPromise, check_tensor
from gaekit.plugins import Registry, build, load_plugins
from gaekit.recipe.load import load_component

MODULE = "gives_wrong"
PLUGIN = "plugin gives_wrong (gives-wrong-dist 1.2)"
SAMPLE = "sample={count: 4, batch: 4, sampler: {use: %s}}"
METRIC = "evaluate={metrics: [{use: %s}]}"
CHANGES: dict[tuple[str, str], tuple[str, ...]] = {
    ("dataset", "from_one"): (),
    ("dataset", "from_one_unknown"): (),
    ("dataset", "grey"): (),
    ("dataset", "unread"): (),
    ("teacher", "double_teacher"): ("teacher={use: double_teacher}", "aligner={use: per_image}"),
    ("encoder", "patches"): ("autoencoder.encoder={use: patches}",),
    ("decoder", "grey_decoder"): ("autoencoder.decoder={use: grey_decoder}",),
    ("aligner", "per_image"): ("teacher={use: small_teacher}", "aligner={use: per_image}"),
    ("regularizer", "bare"): ("autoencoder.regularizer={use: bare}",),
    ("noise", "narrow"): ("autoencoder.noise={use: narrow}",),
    ("perceptual", "per_pixel"): ("autoencoder.perceptual={use: per_pixel}",),
    ("times", "steps"): ("diffusion.times={use: steps}",),
    ("sampler", "mean"): (SAMPLE % "mean",),
    ("metric", "hidden"): (METRIC % "hidden",),
    ("metric", "averaged"): (METRIC % "averaged",),
    ("metric", "unwritten"): (METRIC % "unwritten",),
}
"""How a recipe uses each."""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(install(folder, MODULE))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the tiny recipe: what others share with it is not trained again."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "tiny.yaml").write_text(tiny_recipe())
    assert main(["run", str(folder / "tiny.yaml"), "--out", str(folder / "runs")]) == 0
    return folder / "runs"


def run(base: Path, kind: str, name: str, *more: str) -> int:
    """The exit code of a run of the tiny recipe that uses this component."""
    changes = CHANGES.get((kind, name), (f"diffusion.denoiser={{use: {name}}}",))
    if kind == "dataset":
        changes = (f"dataset={{use: {name}}}",)
    Path("tiny.yaml").write_text(tiny_recipe())
    return main(
        ["run", "tiny.yaml", "--out", str(base), *(word for change in changes for word in ("--set", change)), *more]
    )


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("dataset", "from_one", "promised: labels are 0 to 1 for 2 classes; gave: 1 to 2"),
        ("dataset", "from_one_unknown", "promised: labels are 0 to 1 for 2 classes; gave: 2"),
        ("dataset", "grey", "is an image of Pillow's, decoded, in RGB; gave: L"),
        ("teacher", "double_teacher", "a teacher's feature is float64, promised float32"),
        ("encoder", "patches", "moments has shape (8, 1, 4, 4), promised (8, 4, 4, 4)"),
        ("decoder", "grey_decoder", "the image has shape (8, 1, 16, 16), promised (8, 3, 16, 16)"),
        ("aligner", "per_image", "promised: the value of 'align' is a scalar, of shape (); gave: (8,)"),
        ("regularizer", "bare", "promised: a regularizer gives a gaekit.api.Latent; gave: Tensor"),
        ("noise", "narrow", "what the decoder sees has shape (8, 1, 4, 4), promised (8, 4, 4, 4)"),
        ("perceptual", "per_pixel", "the distance has shape (8, 3, 16, 16), promised (8,)"),
        ("times", "steps", "promised: t lies in [0, 1]; gave: "),
        ("denoiser", "one_channel", "the prediction has shape (8, 1, 4, 4), promised (8, 4, 4, 4)"),
        ("denoiser", "double_denoiser", "the prediction is float64, promised float32"),
        ("denoiser", "bare_denoiser", "promised: a denoiser gives a gaekit.api.Prediction; gave: Tensor"),
        ("sampler", "mean", "the latent has shape (1, 4, 4, 4), promised (4, 4, 4, 4)"),
        ("metric", "hidden", "promised: hidden is a float; gave: Tensor"),
        ("metric", "averaged", "promised: `extract` gives a row for each of "),
        ("metric", "unwritten", "promised: a protocol of JSON values; gave: what JSON cannot write"),
    ],
)
def test_what_is_not_as_promised_ends_the_run(
    base: Path, kind: str, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, kind, name) == 2
    error = capsys.readouterr().err
    assert f"error: {kind} '{name}' of {PLUGIN} does not keep the contract of its kind: " in error
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("dataset", "unread", "failed at image "),
        ("denoiser", "faulty_denoiser", "failed: RuntimeError: "),
        ("denoiser", "late_denoiser", "failed: KeyError: 'late'\n"),
        ("denoiser", "deaf_denoiser", "forward() takes 3 positional arguments but 4 were given"),
        ("denoiser", "built_otherwise", "its constructor must take (config, *, channels, grid, classes)"),
    ],
)
def test_a_fault_of_a_plugin_is_told_as_its_own(
    base: Path, kind: str, name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, kind, name) == 2
    error = capsys.readouterr().err
    assert f"error: {kind} '{name}' of {PLUGIN}" in error
    assert said in error
    assert "Traceback" not in error


def test_the_line_of_a_fault_is_told_and_debug_shows_the_rest(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(base, "denoiser", "late_denoiser", "--debug") == 2
    error = capsys.readouterr().err
    source = (Path("plugins") / f"{MODULE}.py").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(source) if 'KeyError("late")' in text)
    assert f"{MODULE}.py, line {line}, in forward" in error
    assert "Traceback" in error


def test_a_fault_of_a_plugin_in_a_process_that_decodes_is_its_own(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, "dataset", "unread", "--set", "runtime.workers=1") == 2
    assert f"dataset 'unread' of {PLUGIN} failed at image " in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **keywords: Any) -> Any:
        raise KeyError("ours")

    monkeypatch.setattr("gaekit.stages.diffusion.drop_labels", broken)
    with pytest.raises(KeyError, match="ours"):
        run(base, "denoiser", "right_denoiser")


def test_labels_that_are_no_class_are_refused_where_images_are_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.yaml").write_text(tiny_recipe("dataset: {use: from_one_unknown}"))
    assert main(["data", "check", "tiny.yaml", "--workers", "0"]) == 2
    assert "promised: labels are 0 to 1 for 2 classes; gave: 2" in capsys.readouterr().err


def test_a_class_without_images_is_told(caplog: pytest.LogCaptureFixture) -> None:
    registry = load_plugins()
    with caplog.at_level(logging.WARNING):
        made("dataset", "vacant", registry).train()
    assert "1 of 3 classes have no training image: none of it" in caplog.text


def test_a_class_without_images_is_told_once_all_images_were_read(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(base, "dataset", "vacant_unknown", "--until", "latents") == 0
    assert "1 of 3 classes have no training image: none of it" in capsys.readouterr().err


def made(kind: str, name: str, registry: Registry, **sizes: Any) -> Any:
    return build(KINDS[kind], load_component(kind, {"use": name}, registry, source="a test"), registry, **sizes)


def test_only_the_first_answer_is_looked_at() -> None:
    denoiser = made("denoiser", "one_channel", load_plugins(), channels=4, grid=4, classes=2)
    x, t, label = torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(PluginError):
        denoiser(x, t, label)
    assert denoiser(x, t, label).out_BDHW.shape == (2, 1, 4, 4)
    assert not denoiser._forward_hooks

    times = made("times", "steps", load_plugins(), dimension=64)
    assert "times" in vars(times)
    with pytest.raises(PluginError):
        times.times(GeneratorDraws(4, torch.Generator().manual_seed(1)))
    assert "times" not in vars(times)


def test_a_copy_of_a_component_is_looked_at_by_itself() -> None:
    metric = made("metric", "hidden", load_plugins(), image_size=8, classes=())
    twin = copy.deepcopy(metric)
    twin.update(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    with pytest.raises(PluginError):
        twin.compute()
    assert float(twin.compute()["hidden"]) == 1
    assert not hasattr(metric, "last")
    assert "compute" in vars(metric)


def test_a_compiled_network_is_looked_at_outside_of_what_is_compiled() -> None:
    traced = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal traced
        traced += 1
        return graph.forward

    denoiser = made("denoiser", "one_channel", load_plugins(), channels=4, grid=4, classes=2)
    denoiser.compile(backend=backend)
    x, t, label = torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.zeros(2, dtype=torch.long)
    with pytest.raises(PluginError):
        denoiser(x, t, label)
    for _ in range(3):
        denoiser(x, t, label)
    assert traced == 1


def test_a_network_inside_of_one_that_is_compiled_makes_it_compile_once() -> None:
    traced = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal traced
        traced += 1
        return graph.forward

    denoiser = made("denoiser", "lightning_dit", load_plugins(), channels=4, grid=4, classes=2)
    whole = torch.compile(nn.Sequential(Calls(denoiser)), backend=backend, fullgraph=True)
    for _ in range(3):
        whole(torch.zeros(2, 4, 4, 4))
    assert traced == 1


class Calls(nn.Module):
    """Calls a denoiser at t = 0."""

    def __init__(self, denoiser: Any):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor) -> Tensor:
        label = torch.zeros(len(x), dtype=torch.long)
        return self.denoiser(x, torch.zeros(len(x)), label).out_BDHW  # type: ignore[no-any-return]


def test_autocast_may_decide_the_type_of_an_answer() -> None:
    half, asked = torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        check_tensor(half, (2,), "the answer", like=asked)
        with pytest.raises(BrokenPromise, match="is float64, promised float32 or bfloat16"):
            check_tensor(half.double(), (2,), "the answer", like=asked)
    with pytest.raises(BrokenPromise, match="is bfloat16, promised float32"):
        check_tensor(half, (2,), "the answer", like=asked)


def test_an_answer_on_another_device_is_told() -> None:
    with pytest.raises(BrokenPromise, match="is on meta, promised on cpu"):
        check_tensor(torch.zeros(2, device="meta"), (2,), "the answer", like=torch.zeros(2))
