"""Probes of the stages: they change nothing, and their numbers are what they say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from recipe_helpers import tiny_recipe
from rich.console import Console
from torch.nn.functional import cosine_similarity

from gaekit.data.images import Images, to_uint8
from gaekit.pipeline.assets import find_needs
from gaekit.pipeline.run import run_recipe
from gaekit.pipeline.view import View
from gaekit.plugins import Registry, load_plugins
from gaekit.recipe import load_recipe_data
from gaekit.seeds import generator_for
from gaekit.sizing.budget import memory_of_stages
from gaekit.sizing.describe import trained_networks
from gaekit.stages import held_out
from gaekit.stages.data import Data
from gaekit.store.curves import Curves, read_curves
from gaekit.store.models import load_autoencoder, load_denoiser
from gaekit.train.draws import ImageDraws
from gaekit.train.progress import Reporter

TEACHER = "{use: timm, model: test_vit, weights: random}"
PLAIN = yaml.safe_load(
    tiny_recipe(f"""
teacher: {TEACHER}
aligner: {{use: pre}}
autoencoder:
  perceptual: {{use: teacher, teacher: {TEACHER}}}
  train: {{steps: 4, ema: 0.5, lr: 0.001}}
diffusion: {{cosine: 0.5, train: {{steps: 4, ema: 0.5, lr: 0.001}}}}
sample: {{sampler: {{use: euler, steps: 2}}, guidance: {{scale: 2.0}}, count: 10, batch: 8}}
runtime: {{trackers: [], save_every: 2, log_every: 2, threads: 1, device: cpu}}
""")
)
IMAGES, TIMES = 150, 3
PROBES: dict[str, Any] = {
    "autoencoder": {"every": 2, "loss": {"images": IMAGES}, "metrics": [{"use": "psnr"}], "count": 70},
    "diffusion": {
        "every": 2, "loss": {"images": IMAGES, "times": TIMES},
        "metrics": [
            {"use": "class_accuracy", "limit": 200},
            {"use": "frechet", "teacher": yaml.safe_load(TEACHER), "grid": 2, "split": "validation", "parts": True},
        ],
        "count": 20, "sampler": {"use": "heun", "steps": 1},
    },
}  # fmt: skip


def recipe(**sections: dict[str, Any]) -> dict[str, Any]:
    """PLAIN with settings written over those of its sections."""
    return PLAIN | {name: PLAIN[name] | changes for name, changes in sections.items()}


def probed(**sections: dict[str, Any]) -> dict[str, Any]:
    changes = {name: {"probe": probe} | sections.get(name, {}) for name, probe in PROBES.items()}
    return recipe(**{**sections, **changes})


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins()


def run(
    data: dict[str, Any], registry: Registry, out: Path, said: io.StringIO | None = None, until: str = "diffusion"
) -> View:
    reporter = Reporter(Console(file=said or io.StringIO(), width=300))
    return run_recipe(load_recipe_data(data, registry), registry, out=out, until=until, reporter=reporter)


def results(view: View) -> dict[str, bytes]:
    """The artifacts, and every tensor of the last checkpoints, by their rooms."""
    found = {}
    for stage in set(view.record["stages"]) & {"autoencoder", "diffusion"}:
        room = view.path.parent / view.record["stages"][stage]["room"]
        for path in sorted(room.rglob("*.safetensors")):
            found[str(path.relative_to(view.path.parent))] = path.read_bytes()
    return found


def curves(view: View, stage: str) -> Curves:
    return read_curves(view.path / stage / "curves.jsonl")


def without_times(view: View, stage: str) -> dict[str, list[tuple[int, float]]]:
    timed = ("probe/seconds", "train/")
    return {name: points for name, points in curves(view, stage).scalars.items() if not name.startswith(timed)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> View:
    return run(recipe(), registry, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory, registry: Registry, said: io.StringIO) -> View:
    return run(probed(), registry, tmp_path_factory.mktemp("probed"), said)


def test_weights_are_those_of_a_training_without_probes_bit_for_bit(plain: View, view: View) -> None:
    ours, theirs = results(view), results(plain)
    assert len(ours) >= 2 + 2 * 3 * 2
    assert ours.keys() == theirs.keys()  # rooms too: a probe is no part of what decides a result
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_every_number_is_told_by_its_weights_and_its_time(view: View) -> None:
    found = curves(view, "diffusion").under("probe/")
    times = [f"/t{(number + 0.5) / TIMES:.4g}" for number in range(TIMES)]
    losses = {f"probe/loss/{which}{at}" for which in ("raw", "ema") for at in ("", *times)}
    distances = {f"probe/samples/frechet_timm{part}" for part in ("", "_reconstructed", "_from_reconstructions")}
    others = {"probe/loss/noise", "probe/samples/class_accuracy", "probe/seconds"}
    assert set(found) == losses | distances | others
    lost = [value for _, value in found["probe/samples/frechet_timm_reconstructed"]]
    assert len(lost) == 2
    assert lost[0] == lost[1] > 0  # of the autoencoder, which this training does not change
    of_autoencoder = set(curves(view, "autoencoder").under("probe/"))
    terms = ("l1", "perceptual")
    expected = {
        f"probe/loss/{term}/{which}{how}" for term in terms for which in ("raw", "ema") for how in ("", "/noised")
    }
    expected |= {f"probe/reconstruction/psnr/{which}{how}" for which in ("raw", "ema") for how in ("", "/noised")}
    expected |= {f"probe/loss/{which}" for which in ("raw", "ema")} | {"probe/seconds"}
    aligned = of_autoencoder - expected
    assert expected < of_autoencoder
    assert {name.rpartition("/")[2] for name in aligned} == {"raw", "ema"}
    assert [step for step, _ in found["probe/loss/raw"]] == [2, 4]


def chosen(images: Images, count: int) -> list[int]:
    order = torch.randperm(len(images), generator=generator_for("held-out images", len(images)))
    return order[:count].tolist()


def test_the_loss_is_that_of_the_plain_formula_at_the_same_images_times_and_noise(
    view: View, registry: Registry
) -> None:
    found = load_recipe_data(probed(), registry)
    images = Data(found, registry).images("validation")
    model = load_autoencoder(view.artifact("autoencoder"), registry)
    denoiser = load_denoiser(view.artifact("diffusion"), registry)
    totals = [0.0] * TIMES
    for index in chosen(images, IMAGES):
        batch = images.batch([index], [False])
        with torch.no_grad():
            data = denoiser.statistics.standardise(model.encode(batch.image_B3RR)[1].mean_BDHW)
            for number in range(TIMES):
                t = (number + 0.5) / TIMES
                noise = ImageDraws(0, f"probe noise {number}", [index], torch.device("cpu")).normal(*data.shape[1:])
                x = (1 - t) * noise + t * data
                out = denoiser.network(x, torch.tensor([t]), batch.label_B).out_BDHW
                velocity = data - noise
                error = (out - velocity).square().mean() + 0.5 * (1 - cosine_similarity(out, velocity, dim=1)).mean()
                totals[number] += float(error) / IMAGES
    told = curves(view, "diffusion").scalars
    for number, total in enumerate(totals):
        name = f"probe/loss/ema/t{(number + 0.5) / TIMES:.4g}"
        assert dict(told[name])[4] == pytest.approx(total, rel=1e-5)
    assert dict(told["probe/loss/ema"])[4] == pytest.approx(sum(totals) / TIMES, rel=1e-5)


def test_terms_and_psnr_are_those_of_the_trained_autoencoder(view: View, registry: Registry) -> None:
    found = load_recipe_data(probed(), registry)
    images = Data(found, registry).images("validation")
    model = load_autoencoder(view.artifact("autoencoder"), registry)
    told = {name: dict(points)[4] for name, points in curves(view, "autoencoder").under("probe/").items()}
    with torch.no_grad():
        batch = images.batch(chosen(images, IMAGES), [False] * IMAGES)
        fake = model.reconstruct(batch.image_B3RR)
        l1 = float((fake - batch.image_B3RR).abs().mean())
        squares = (to_uint8(fake[:70]).double() - batch.pixels_BRR3[:70].double()).square().flatten(1).mean(1)
    psnr = float((10 * torch.log10(255.0**2 / squares)).mean())
    assert told["probe/loss/l1/ema"] == pytest.approx(l1, rel=1e-5)
    assert told["probe/reconstruction/psnr/ema"] == pytest.approx(psnr, rel=1e-4)
    assert told["probe/loss/l1/ema/noised"] != told["probe/loss/l1/ema"]


def test_weights_that_do_not_move_have_the_same_numbers_at_every_probe(
    view: View, tmp_path: Path, registry: Registry
) -> None:
    one = probed(diffusion={"train": PLAIN["diffusion"]["train"] | {"lr": 1e-30}})
    taken = {stage: {"from": str(view.artifact(stage))} for stage in ("autoencoder", "latents")}
    found = without_times(run(one | taken, registry, tmp_path), "diffusion")
    for name, points in found.items():
        if name.startswith("probe/"):
            assert [step for step, _ in points] == [2, 4]
            assert len({value for _, value in points}) == 1, name


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the n-th merging of a probe's numbers end the process."""
    merged, count = held_out.means_over_ranks, 0

    def arrange(moment: int) -> None:
        def dying(*given: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                raise KeyboardInterrupt
            return merged(*given)

        for module in ("autoencoder_probe", "denoiser_probe"):
            monkeypatch.setattr(f"gaekit.stages.{module}.means_over_ranks", dying)

    return arrange


@pytest.mark.parametrize(("moment", "stage"), [(3, "autoencoder"), (6, "diffusion")])
def test_killed_in_a_probe_and_run_again_everything_is_as_if_it_had_not_been(
    view: View, tmp_path: Path, registry: Registry, killed_at: Any, moment: int, stage: str
) -> None:
    """The third merging is of the autoencoder's second probe, at its end; the sixth of the denoiser's first."""
    killed_at(moment)
    with pytest.raises(KeyboardInterrupt):
        run(probed(), registry, tmp_path, until=stage)
    again = run(probed(), registry, tmp_path, until=stage)
    found = results(again)
    assert len(found) >= 7
    assert found == {name: content for name, content in results(view).items() if name in found}
    assert without_times(again, stage) == without_times(view, stage)


def test_the_record_marks_the_best_probe_and_says_by_what(view: View) -> None:
    record = json.loads((view.path / "run.json").read_text())
    for stage in ("autoencoder", "diffusion"):
        told, marked = dict(curves(view, stage).scalars["probe/loss/ema"]), record["stages"][stage]["record"]["probe"]
        step = min(told, key=told.__getitem__)
        assert marked.pop("seconds") > 0
        assert marked == {"count": 2, "by": "lowest probe/loss/ema", "best": {"step": step, "value": told[step]}}


def test_a_denoiser_that_has_learnt_nothing_yet_is_said_to_be_no_better_than_noise(
    view: View, said: io.StringIO
) -> None:
    told = curves(view, "diffusion").scalars
    assert dict(told["probe/loss/ema"])[2] > dict(told["probe/loss/noise"])[2]
    lines = said.getvalue().splitlines()
    assert any("diffusion: samples are no better than noise yet: loss/ema is" in line for line in lines)
    assert any(line.startswith("  diffusion: probe at step 2: loss/ema") and "class_accuracy" in line for line in lines)
    assert any(line.startswith("  autoencoder: probe at step 4: loss/ema") and "psnr/ema" in line for line in lines)


def test_the_loss_of_noise_is_that_of_the_closed_form(view: View, registry: Registry) -> None:
    """At t on the linear path, of a latent's channel of variance v: v / (t^2 v + (1 - t)^2), and cosine beside it."""
    told = dict(curves(view, "diffusion").scalars["probe/loss/noise"])
    assert told[2] == told[4]
    times = [(number + 0.5) / TIMES for number in range(TIMES)]
    of_unit_variance = sum(1 / (t**2 + (1 - t) ** 2) for t in times) / TIMES
    assert of_unit_variance * 0.7 < told[2] < of_unit_variance * 1.3 + 0.5


def test_what_its_metrics_need_is_fetched_before_anything_runs(registry: Registry) -> None:
    wanted = recipe(diffusion={"probe": {"metrics": [{"use": "fid"}]}})
    found = find_needs(load_recipe_data(wanted, registry), registry)
    assert [(need.stage, need.owner) for need in found if "Inception" in need.asset.what] == [
        ("diffusion", "metric 'fid'")
    ]


def test_its_copies_of_networks_are_counted_in_the_plan(registry: Registry) -> None:
    def copies(data: dict[str, Any]) -> dict[str, int]:
        found = load_recipe_data(data | {"sample": None}, registry)
        networks = trained_networks(found, registry, 10)
        return {memory.stage: memory.previews for memory in memory_of_stages(found, networks, 1)}

    assert copies(recipe()) == {"autoencoder": 0, "diffusion": 0}
    losses = recipe(autoencoder={"probe": {}}, diffusion={"probe": {}})
    assert all(size > 0 for size in copies(losses).values())
    assert copies(probed())["diffusion"] > copies(losses)["diffusion"]  # and the autoencoder, for its samples
