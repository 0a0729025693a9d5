"""The parity check: every golden number, files of other sizes and switches, and that it fails where it must."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dit_restated import Network
from parity import check
from parity.cases import Case, find_case
from parity.fixture import UnknownOutput, read_fixture
from parity.rebuild import registry
from parity.restated import Restated
from safetensors.torch import save_file
from torch import Tensor

from gaekit.api import Denoiser
from gaekit.interop import dit, dit_dh, gae
from gaekit.plugins import build
from gaekit.recipe.load import load_component

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
SWITCHES = ("use_qknorm", "use_swiglu", "use_rope", "use_rmsnorm", "wo_shift")
Tensors = dict[str, Tensor]


def write(path: Path, config: dict[str, Any], state: Tensors, inputs: Tensors, outputs: Tensors) -> Path:
    groups = {"state": state, "in": inputs, "out": outputs}
    tensors = {f"{group}.{key}": value.contiguous() for group, held in groups.items() for key, value in held.items()}
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    return path


def changed(golden: str, path: Path, **outputs: Tensor) -> Path:
    """A golden file with other outputs."""
    found = read_fixture(next(file for file in GOLDEN if file.stem == golden))
    return write(path, found.config, found.state, found.inputs, {**found.outputs, **outputs})


def random_state(settings: dict[str, Any], channels: int, grid: int, classes: int, fixed: tuple[str, ...]) -> Tensors:
    """The tensors of a network of ours with weights everywhere; those whose names begin as `fixed` are left."""
    config = load_component("denoiser", settings, registry(), source="test")
    network = build(Denoiser, config, registry(), channels=channels, grid=grid, classes=classes)
    generator = torch.Generator().manual_seed(0)
    return {
        key: value.detach() if any(part in key for part in fixed)
        else value.detach() + 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in network.state_dict().items()
    }  # fmt: skip


def inputs(channels: int, grid: int, classes: int) -> Tensors:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, channels, grid, grid, generator=generator)
    return {"x": x, "t": torch.rand(3, generator=generator), "y": torch.tensor([0, 1, classes])}


def lightning(**switches: bool) -> tuple[dict[str, Any], Tensors]:
    """(config, state) of another LightningDiT: deeper, wider, five classes, patches of two."""
    config: dict[str, Any] = dict.fromkeys((*SWITCHES, "use_abs_pos"), False) | switches
    config |= {"kind": "lightning_dit", "input_size": 6, "patch_size": 2, "in_channels": 3, "hidden_size": 96,
               "depth": 3, "num_heads": 6, "mlp_ratio": 3.0, "num_classes": 5, "cfg_scale": 1.7}  # fmt: skip
    settings = {
        "use": "lightning_dit", "depth": 3, "width": 96, "heads": 6, "patch": 2, "mlp_ratio": 3.0,
        "mlp": "swiglu" if config["use_swiglu"] else "mlp", "norm": "rms" if config["use_rmsnorm"] else "layer",
        "qk_norm": config["use_qknorm"], "rope": config["use_rope"], "wo_shift": config["wo_shift"],
        "absolute_positions": config["use_abs_pos"],
    }  # fmt: skip
    state = random_state(settings, 3, 6, 5, fixed=("freqs", "pos_embed"))
    return config, state


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_every_output_of_the_golden_files_is_within_tolerance(file: Path) -> None:
    verdicts = list(check.check(file))
    assert {verdict.name for verdict in verdicts} == set(read_fixture(file).outputs)
    assert [str(verdict) for verdict in verdicts if not verdict.good] == []


@pytest.mark.parametrize(
    "on",
    [
        (),
        ("use_rope", "use_rmsnorm", "use_swiglu", "use_abs_pos", "wo_shift"),
        ("use_qknorm",),
        ("use_qknorm", "use_rmsnorm"),
        ("use_rope",),
        ("use_swiglu", "wo_shift"),
        ("use_abs_pos",),
    ],
)
@pytest.mark.parametrize("holds_positions", [False, True])
def test_lightning_dit_of_other_sizes_and_switches(on: tuple[str, ...], holds_positions: bool, tmp_path: Path) -> None:
    config, state = lightning(**dict.fromkeys(on, True))
    state = gae.denoiser_to_published(state, tokens=9) if holds_positions else state
    if holds_positions and not config["use_abs_pos"]:
        state["pos_embed"] = torch.ones_like(state["pos_embed"])  # there, and not used
    given = inputs(3, 6, 5)
    velocity = Restated(config, state).lightning_dit(*given.values())
    null = Restated(config, state).lightning_dit(given["x"], given["t"], torch.full((3,), 5))
    given |= {f"cfg_{key}": value.clone() for key, value in given.items()}
    outputs = {"velocity": velocity, "cfg_velocity": null + 1.7 * (velocity - null)}
    file = write(tmp_path / "lightning.safetensors", config, state, given, outputs)
    assert [str(verdict) for verdict in check.check(file) if not verdict.good] == []


@pytest.mark.parametrize(
    ("widths", "on"),
    [
        ((64, 96), ("use_rope", "use_rmsnorm", "use_swiglu", "use_pos_embed")),
        ((64, 96), ("wo_shift", "use_qknorm")),
        ((64, 64), ("use_rmsnorm", "use_pos_embed", "use_qknorm")),
    ],
)
def test_ddt_of_other_sizes_and_switches(widths: tuple[int, int], on: tuple[str, ...], tmp_path: Path) -> None:
    config: dict[str, Any] = dict.fromkeys((*SWITCHES, "use_pos_embed"), False) | dict.fromkeys(on, True)
    config |= {"kind": "ddt", "input_size": 3, "patch_size": 1, "in_channels": 5, "hidden_size": list(widths),
               "depth": [3, 2], "num_heads": [4, 2], "mlp_ratio": 2.0, "num_classes": 7}  # fmt: skip
    settings = {
        "use": "dit_dh", "depth": 3, "width": widths[0], "heads": 4, "patch": 1, "mlp_ratio": 2.0, "decoder_depth": 2,
        "decoder_width": widths[1], "decoder_heads": 2, "convention": "noise_at_one",
        "mlp": "swiglu" if config["use_swiglu"] else "mlp", "norm": "rms" if config["use_rmsnorm"] else "layer",
        "qk_norm": config["use_qknorm"], "rope": config["use_rope"], "wo_shift": config["wo_shift"],
        "absolute_positions": config["use_pos_embed"],
    }  # fmt: skip
    state = dit_dh.to_published(random_state(settings, 5, 3, 7, fixed=("freqs", "frequencies", "pos_embed")))
    given = inputs(5, 3, 7)
    outputs = {"velocity": Restated(config, state).ddt(*given.values())}
    file = write(tmp_path / "ddt.safetensors", config, state, given, outputs)
    assert [str(verdict) for verdict in check.check(file) if not verdict.good] == []


@pytest.mark.parametrize("kind", ["dit", "sit"])
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_dit_and_sit_of_other_sizes(kind: str, learn_sigma: bool, tmp_path: Path) -> None:
    settings = {"use": kind, "depth": 3, "width": 96, "heads": 6, "patch": 1, "mlp_ratio": 2.5,
                "learn_sigma": learn_sigma}  # fmt: skip
    state = dit.to_published(random_state(settings, 3, 4, 6, fixed=("pos_embed",)))
    config = {"kind": kind, "input_size": 4, "patch_size": 1, "in_channels": 3, "hidden_size": 96, "depth": 3,
              "num_heads": 6, "mlp_ratio": 2.5, "num_classes": 6, "learn_sigma": learn_sigma}  # fmt: skip
    given = inputs(3, 4, 6)
    if kind == "dit":
        given["t"] = torch.tensor([0, 431, 999])
    first, second = (part for _, part in sorted(vars(Network(config, state)(*given.values())).items()) if part != {})
    model = torch.cat([first, second], 1) if kind == "dit" else first
    file = write(tmp_path / "plain.safetensors", config, state, given, {"model": model})
    assert [str(verdict) for verdict in check.check(file) if not verdict.good] == []


@pytest.mark.parametrize(
    ("sampling", "case"),
    [
        (
            {"ode_x": "20 euler steps on 21 grid points, shift 0.7."},
            Case(method="euler", points=21, shift=0.7),
        ),
        (
            {"ode_dopri5": "torchdiffeq dopri5, atol 1e-5 rtol 1e-4, 7 points, no shift"},
            Case(method="dopri5", points=7, shift=1.0, atol=1e-5, rtol=1e-4),
        ),
        (
            {"ode_midpoint": "torchdiffeq midpoint, 7 points"},
            Case(method="midpoint", points=7),
        ),
        (
            {"sde_heun": "Heun, diffusion form increasing-decreasing, last step Euler 0.03, num_steps 9, shift 0.3, "
             "torch.manual_seed(5), one torch.randn(x.shape) per step"},
            Case(method="heun", diffusion="increasing-decreasing", last_step="euler", last_step_size=0.03, points=9,
                 shift=0.3, seed=5),
        ),
        (
            {"sde_a": "Euler-Maruyama, SBDM, last step Mean 0.004, num_steps 12, shift 0.4, torch.manual_seed(1)",
             "sde_b": "Euler-Maruyama, diffusion decreasing, no last step"},
            Case(method="euler", diffusion="decreasing", last_step="none", points=12, seed=1),
        ),
        (
            {"ode_a": "euler on 11 points, shift 0.7",
             "ode_b": "as ode_a, cfg scale 3.5, conditional alone while t < 0.125"},
            Case(method="euler", points=11, shift=0.7, scale=3.5, start=0.125),
        ),
        (
            {"ddpm9": "respaced to 9, torch.manual_seed(77), one torch.randn_like(x) per step",
             "ddpm9_cfg": "as ddpm9 on the doubled batch (noise drawn for 2N), scale 4.0 on the first three channels"},
            Case(seed=77, doubled=True, scale=4.0, channels="first3"),
        ),
    ],
)  # fmt: skip
def test_settings_are_read_out_of_the_words(sampling: dict[str, str], case: Case) -> None:
    assert find_case(sampling, list(sampling)[-1]) == case


def test_an_output_without_words_is_unknown() -> None:
    with pytest.raises(UnknownOutput, match="says nothing of ode_b; it tells of ode_a"):
        find_case({"ode_a": "euler on 11 points"}, "ode_b")


def test_a_wrong_number_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = read_fixture(GOLDEN[0].parent / "ddt.safetensors")
    velocity = golden.outputs["velocity"].clone()
    velocity[0, 0, 0, 0] += 1e-3
    file = changed("ddt", tmp_path / "ddt.safetensors", velocity=velocity)
    assert check.main([str(file)]) == 1
    printed = capsys.readouterr().out
    assert "velocity" in printed
    assert "1.0" in printed
    assert printed.endswith("1 outputs, 1 beyond tolerance\n")


def test_what_is_not_finite_or_of_another_shape_fails(tmp_path: Path) -> None:
    golden = read_fixture(GOLDEN[0].parent / "ddt.safetensors").outputs["velocity"]
    file = changed("ddt", tmp_path / "ddt.safetensors", velocity=golden[:2])
    (verdict,) = check.check(file)
    assert not verdict.good
    assert "of shape (3, 8, 4, 4), not (2, 8, 4, 4)" in str(verdict)


def test_no_output_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = changed("lightning_dit_qknorm", tmp_path / "more.safetensors", likelihood=torch.zeros(2))
    assert check.main([str(file)]) == 1
    assert "no such output of a LightningDiT is known" in capsys.readouterr().out
    file = changed("sit", tmp_path / "sit.safetensors", ode_heun_Linear_noise=torch.zeros(2))
    faults = [str(verdict) for verdict in check.check(file) if not verdict.good]
    assert len(faults) == 1
    assert "config.sampling says nothing of ode_heun_Linear_noise" in faults[0]


def test_a_file_that_cannot_be_rebuilt_fails_for_each_output(tmp_path: Path) -> None:
    found = read_fixture(GOLDEN[0].parent / "ddt.safetensors")
    state = {key: value for key, value in found.state.items() if key != "s_projector.bias"}
    file = write(tmp_path / "ddt.safetensors", found.config, state, found.inputs, found.outputs)
    (verdict,) = check.check(file)
    assert not verdict.good
    assert "1 missing: s_projector.bias" in verdict.fault
    empty = write(tmp_path / "empty.safetensors", {"kind": "ddt"}, {"a": torch.ones(1)}, {}, {})
    assert check.main([str(empty)]) == 1
    other = write(tmp_path / "other.safetensors", {"kind": "new"}, {}, {}, {"a": torch.ones(1)})
    assert "kind 'new' is not known" in next(check.check(other)).fault


@pytest.mark.slow  # `make test-all`; what it does is tested above
def test_it_runs_as_a_script(tmp_path: Path) -> None:
    script = Path(check.__file__)
    file = GOLDEN[0].parent / "adm_center_crop.safetensors"
    done = subprocess.run([sys.executable, str(script), str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "4 outputs, all within tolerance"
    assert subprocess.run([sys.executable, str(script)], capture_output=True).returncode == 2
