"""A bill is the sum of what the attempts took, and says what it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from store.test_attempts import attempt

from gaekit.cli import main
from gaekit.cli.bill import _directions
from gaekit.errors import GaekitError
from gaekit.pipeline.pack import pack
from gaekit.pipeline.view import View
from gaekit.rates import RATES, peak_of
from gaekit.runs.bill import Bill, CpuRate, Price, bill
from gaekit.runs.until import parse_until, seconds_until, until
from gaekit.store.attempts import Attempt, write_attempts
from gaekit.store.curves import line_of
from gaekit.store.room import Room

H100 = "NVIDIA H100 80GB HBM3"


def is_higher(name: str) -> bool:
    return name.endswith("psnr")


def make_run(runs: Path, stages: dict[str, list[Attempt]], name: str = "mine", **extra: Any) -> View:
    """A run of rooms `store/<stage>/abc` in which these attempts were written down."""
    entries = {}
    for stage, attempts in stages.items():
        room = Room(runs / "store" / stage / "abc")
        room.path.mkdir(parents=True, exist_ok=True)
        write_attempts(room.attempts, attempts)
        entries[stage] = {
            "status": "done", "identity": "abc", "artifact": f"../store/{stage}/abc/x", "room": f"store/{stage}/abc",
            "subfolder": "", **extra.get(stage, {}),
        }  # fmt: skip
    view = View(runs / name)
    view.path.mkdir(exist_ok=True)
    view.write({"name": name, "stages": entries})
    return view


@pytest.fixture
def run(tmp_path: Path) -> View:
    """A tokenizer that was done at once, and a denoiser that was killed once and went on from step 100."""
    tokenizer = attempt(
        outcome="done", device=H100, seconds=1800.0, processes=4, flop=10**18, joules=7.2e6, images=36000
    )
    first = attempt(
        outcome="killed", device=H100, seconds=3000.0, processes=8, first_step=0, last_step=130, batch=8, epoch=400,
        images=1040, ready_seconds=400.0, flop=2 * 10**18, joules=3.6e6,
    )  # fmt: skip
    second = first.model_copy(
        update={"outcome": "done", "first_step": 100, "last_step": 200, "images": 800, "seconds": 2400.0}
    )
    view = make_run(tmp_path / "runs", {"autoencoder": [tokenizer], "diffusion": [first, second]})
    lines = [
        (step, step * 20.0, {"loss/velocity": 1.0, "probe/samples/fid": 60.0 - step / 4}) for step in range(10, 201, 10)
    ]
    (view.path / "diffusion" / "curves.jsonl").write_bytes(b"".join(line_of(*line) for line in lines))
    return view


def test_sums_are_those_of_the_attempts(run: View) -> None:
    made = bill(run, price=Price.parse("2.5/h"))
    tokenizer, denoiser = made.stages
    assert tokenizer.device_seconds == 1800 * 4
    assert denoiser.device_seconds == (3000 + 2400) * 8
    assert denoiser.lost_seconds == 3000 * 8
    assert made.device_seconds == 7200 + 43200
    assert made.flop == 5 * 10**18
    assert made.joules == 7.2e6 + 2 * 3.6e6
    assert made.money == pytest.approx(2.5 * 14.0)
    assert tokenizer.images_per_second == 20.0
    assert denoiser.images_per_second == pytest.approx(1840 / 5400)
    possible = 989.5e12 * 43200
    assert denoiser.share == pytest.approx(4e18 / possible)
    assert made.share == pytest.approx(5e18 / (989.5e12 * 50400))
    assert any("989.5 TFLOP/s of NVIDIA H100 80GB HBM3, dense bf16" in note for note in made.notes)


def test_what_is_not_known_is_said_and_left_out_of_the_sums(tmp_path: Path) -> None:
    imported = {"autoencoder": {"status": "from", "room": None, "artifact": "/shared/vae.safetensors"}}
    told = {
        "autoencoder": [],
        "diffusion": [attempt(outcome="done", device="A card", flop=None)],
        "sample": [attempt(outcome="failed", error="disk full", device="A card", uncounted={"teacher x": "odd"})],
    }
    made = bill(make_run(tmp_path, told, **imported))
    stages = {stage.stage: stage for stage in made.stages}
    assert not stages["autoencoder"].known
    assert stages["diffusion"].flop is None
    assert made.flop == 1000
    assert made.device_seconds == 2 * 20.0
    assert made.joules is None
    assert made.share is None
    notes = "\n".join(made.notes)
    for said in (
        "taken from /shared/vae.safetensors, whose cost is unknown",
        "The rate of A card is not known",
        "Energy is unknown",
        "the FLOP of teacher x are not counted (odd)",
        "failed: disk full",
    ):
        assert said in notes


def test_a_room_that_others_use_is_billed_whole_and_marked(run: View) -> None:
    alone = bill(run).device_seconds
    other = View(run.path.parent / "other")
    other.path.mkdir()
    record = run.record
    record["stages"].pop("diffusion")
    other.write(record)
    assert bill(run).device_seconds == alone
    assert [stage.shared_by for stage in bill(run).stages] == [("other",), ()]
    assert "shared with 1 other run (other)" in "\n".join(bill(run).notes)
    assert [stage.shared_by for stage in bill(other).stages] == [("mine",)]


def test_what_another_run_may_have_made_is_marked(run: View) -> None:
    record = run.record
    record["stages"]["autoencoder"]["caches"] = ["store/features/shared", "store/features/own"]
    run.write(record)
    other = View(run.path.parent / "other")
    other.path.mkdir()
    entry = record["stages"]["autoencoder"] | {"room": "store/autoencoder/other", "caches": ["store/features/shared"]}
    other.write({"name": "other", "stages": {"autoencoder": entry}})
    assert bill(run).stages[0].caches == ("store/features/shared",)
    assert "reads store/features/shared, which other runs use too" in "\n".join(bill(run).notes)


def test_a_packed_run_has_the_same_bill(run: View, tmp_path: Path) -> None:
    (run.path / "recipe.yaml").write_text("recipe: 1\n")
    for stage in ("autoencoder", "diffusion"):
        (run.path / stage / "x").write_text(stage)
    packed = View(pack(run, tmp_path / "copy"))
    assert bill(packed).to_json()["stages"] == bill(run).to_json()["stages"]
    assert until(packed, bill(packed), "fid=30", is_higher).device_hours is not None


def test_a_length_pays_for_what_it_went_on_from_and_not_for_what_came_after(tmp_path: Path) -> None:
    """100 steps; prolonged to 200; 50 beside them, from a checkpoint of step 40 of the first; 20 from the beginning."""
    common = {"outcome": "done", "processes": 1}
    attempts = [
        attempt(**common, length=100, first_step=0, last_step=100, seconds=1.0),
        attempt(**common, length=200, first_step=100, last_step=200, seconds=10.0),
        attempt(**common, length=50, first_step=40, last_step=50, seconds=100.0, apart=True),
        attempt(**common, length=20, first_step=0, last_step=20, seconds=1000.0, apart=True),
    ]
    for length, seconds in ((100, 1.0), (200, 11.0), (50, 101.0), (20, 1000.0)):
        view = make_run(tmp_path, {"diffusion": attempts}, diffusion={"identity": f"abc@{length}"})
        assert bill(view).device_seconds == seconds


def test_a_cpu_has_the_rate_that_was_measured_and_no_other(tmp_path: Path) -> None:
    cpu = attempt(outcome="done", device="CPU X", cuda=False, threads=2, precision="float32", processes=1, flop=10**12)
    view = make_run(tmp_path, {"diffusion": [cpu]})
    assert bill(view).share is None
    assert bill(view, cpu=CpuRate("CPU X", 2, 0.5)).share == pytest.approx(0.2)  # 1e12 of 10 s at 0.5 TFLOP/s
    assert bill(view, cpu=CpuRate("CPU X", 4, 0.5)).share is None
    assert bill(view, cpu=CpuRate("CPU Y", 2, 0.5)).share is None


@pytest.mark.parametrize(
    ("text", "amount", "currency"),
    [("2.5/h", 2.5, ""), ("$2/h", 2.0, "$"), ("0.35 EUR/h", 0.35, "EUR"), (" 3 / h ", 3.0, "")],
)
def test_a_price_is_of_an_hour_of_a_device(text: str, amount: float, currency: str) -> None:
    assert Price.parse(text) == Price(amount, currency)


@pytest.mark.parametrize("text", ["", "2.5", "-1/h", "2,5/h", "2.5/d", "h", "$2 EUR/h"])
def test_another_price_is_refused(text: str) -> None:
    with pytest.raises(GaekitError, match=r"2\.5/h"):
        Price.parse(text)


def test_the_cost_until_a_value_is_of_all_that_came_before_it(run: View) -> None:
    """FID 60 - step / 4 is 30 at step 120, in the first attempt, whose steps are even: 400 s to the first of 130, then
    120 of them in 2600 s."""
    reached = until(run, bill(run), "fid=30", is_higher)
    assert (reached.metric, reached.stage, reached.step, reached.value) == ("probe/samples/fid", "diffusion", 120, 30.0)
    assert reached.epochs == 120 * 8 / 400
    assert reached.device_hours == pytest.approx(8 * (400 + 2600 * 120 / 130) / 3600)
    assert reached.device_hours_before == 2.0
    # 22.5 at step 150, in the second attempt, after the whole of the first: half of what follows its first 400 s.
    reached = until(run, bill(run), "probe/samples/fid=22.5", is_higher)
    assert reached.step == 150
    assert reached.device_hours == pytest.approx(8 * (3000 + 400 + 2000 / 2) / 3600)


def test_a_value_that_was_never_reached_comes_with_the_best(run: View) -> None:
    reached = until(run, bill(run), "fid=2", is_higher)
    assert (reached.step, reached.epochs, reached.device_hours) == (None, None, None)
    assert (reached.best, reached.best_step) == (10.0, 200)


def test_more_is_better_where_the_metric_says_so(run: View) -> None:
    curves = run.path / "diffusion" / "curves.jsonl"
    psnr = [line_of(step, step, {"probe/psnr": step / 10}) for step in range(10, 201, 10)]
    curves.write_bytes(b"".join(psnr))
    assert until(run, bill(run), "psnr=15", is_higher).step == 150
    assert until(run, bill(run), "psnr=21", is_higher).best == 20.0


def test_a_curve_that_is_not_there_or_not_the_only_one_is_told(run: View) -> None:
    with pytest.raises(GaekitError, match=r"no curve of .* is called so; its curves: probe/samples/fid"):
        until(run, bill(run), "fit=2", is_higher)
    (run.path / "autoencoder" / "curves.jsonl").write_bytes(line_of(1, 1.0, {"probe/raw/fid": 3.0}))
    with pytest.raises(GaekitError, match=r"autoencoder/probe/raw/fid, diffusion/probe/samples/fid; give one as it"):
        until(run, bill(run), "fid=2", is_higher)
    assert until(run, bill(run), "diffusion/probe/samples/fid=30", is_higher).step == 120
    (run.path / "autoencoder" / "curves.jsonl").write_bytes(line_of(1, 1.0, {"probe/samples/fid": 3.0}))
    with pytest.raises(GaekitError, match=r"autoencoder/probe/samples/fid, diffusion/probe/samples/fid"):
        until(run, bill(run), "probe/samples/fid=2", is_higher)
    assert until(run, bill(run), "diffusion/probe/samples/fid=30", is_higher).step == 120
    for text in ("fid", "fid=", "fid=low", "=2", "fid=nan"):
        with pytest.raises(GaekitError, match="fid=2"):
            parse_until(text)


def test_time_is_shared_out_as_the_trainings_own_is(run: View) -> None:
    """Steps of an adversary that joins later take longer: 1 s each to step 100, then 3 s each."""
    from gaekit.store.curves import read_curves

    lines = [line_of(step, float(step if step <= 100 else 3 * step - 200), {}) for step in range(0, 201, 50)]
    curves = run.path / "diffusion" / "curves.jsonl"
    curves.write_bytes(b"".join(lines))
    stage = bill(run).stages[1]
    alone = type(stage)("diffusion", (stage.attempts[0].model_copy(update={"last_step": 200, "ready_seconds": 0.0}),))
    assert seconds_until(alone, read_curves(curves), 150) == pytest.approx(8 * 3000 * 250 / 400)


def test_the_command_prints_the_same_numbers_to_people_and_programs(
    run: View, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bill", str(run.path), "--price", "2.5 EUR/h", "--until", "fid=30"]
    assert main(command) == 0
    told = capsys.readouterr().out
    for text in ("2 (1 killed)", "12", "6.667", "4 EFLOP", "35.00 EUR", "first reached at step 120", "2.4 epochs"):
        assert text in told
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device_hours"] == pytest.approx(14.0)
    assert found["money"] == pytest.approx(35.0)
    assert [len(stage["attempts"]) for stage in found["stages"]] == [1, 2]
    assert found["until"][0]["epochs"] == pytest.approx(2.4)
    assert main(["bill", str(run.path / "diffusion")]) == 2


def test_what_metrics_say_of_themselves_decides_which_way_is_better() -> None:
    is_higher = _directions()
    assert [is_higher(f"probe/{name}") for name in ("psnr", "reconstruction/ssim", "samples/fid", "loss/raw")] == [
        True, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        (H100, "bf16", 989.5), ("NVIDIA H100 PCIe", "bf16", 756.0), ("NVIDIA H100 NVL", "tf32", 417.5),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0), ("NVIDIA A100-SXM4-80GB", "tf32", 156.0),
        ("NVIDIA A10", "bf16", 125.0), ("NVIDIA A10G", "bf16", None),
        ("NVIDIA GB200", "bf16", None), ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2), ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("Tesla V100-SXM2-32GB", "bf16", None), ("Tesla V100-SXM2-32GB", "float32", 15.7), ("Tesla T4", "float32", 8.1),
        ("NVIDIA GeForce GTX 1080 Ti", "float32", None),
    ],
)  # fmt: skip
def test_a_card_has_the_rate_of_its_own_name(device: str, precision: str, tflops: float | None) -> None:
    peak = peak_of(device, precision)
    assert (peak and peak.tflops) == tflops
    assert peak is None or device in peak.of


def test_rates_fall_with_precision() -> None:
    for rates in RATES.values():
        told = [rate for rate in rates if rate is not None]
        assert told == sorted(told, reverse=True)


def test_a_bill_of_nothing_is_empty(tmp_path: Path) -> None:
    empty = Bill("none", ())
    assert (empty.device_seconds, empty.flop, empty.share, empty.joules, empty.money) == (0, None, None, None, None)
