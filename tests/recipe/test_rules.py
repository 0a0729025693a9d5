# ruff: noqa: E501 -- a table of messages reads best with a line each
"""What no single field can tell is told, at the key to change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaekit.plugins import Registry
from gaekit.recipe import check_recipe
from gaekit.recipe.schema import Recipe

Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]


def at(option: str, *others: str) -> tuple[str, ...]:
    return (option, *others)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (at("image.size=30"), "image.stride: 8 does not divide the image size 30; 6 or 10 would"),
        (at("autoencoder.adversary.start=20"), "autoencoder.adversary.start: start 20 is not before the end of the training at step 20"),
        (at("autoencoder.adversary.start=1.0"), "autoencoder.adversary.start: start 1.0 is a fraction of the training, below 1; a number of steps is written without a point"),
        (at("autoencoder.weights={l1: 0, perceptual: 0, log_variance: 0}"), "autoencoder.weights.log_variance: is relative to the reconstruction, which has no term"),
        (at("autoencoder.weights={l1: 0, perceptual: 0}", "autoencoder.adversary.adaptive=true"), "autoencoder.adversary.adaptive: is relative to the reconstruction, which has no term"),
        (at("aligner={use: pre, adaptive: true}", "semantic={}"), "aligner.adaptive: unknown key -- 'pre' knows: cosine_margin, distance_margin, loss, use, weight"),
        (at("autoencoder.adversary.warmup=50"), "autoencoder.adversary.warmup: warm-up 50 is not before the end of the training at step 20"),
        (at("diffusion.train.warmup=20"), "diffusion.train.warmup: warm-up 20 is not before the end of the training at step 20"),
        (at("semantic.train.warmup=1.5"), "semantic.train.warmup: warm-up 1.5 is a fraction"),
        (at("teacher=null"), "aligner: aligner 'latent' needs a teacher; add a section `teacher: {use: ...}`"),
        (at("semantic={}"), "semantic: aligner 'latent' is trained in this stage; say how with `semantic: {train: "),
        (at("latents.scale=0.18215"), "latents.scale: a fixed scale goes with `normalize: scalar`, not with `normalize: channel`"),
        (at("latents.normalize=scalar"), "latents.normalize: scalar needs the factor too"),
        (at("latents=null"), "diffusion: trains on cached latents; add a section `latents: {}`"),
        (at("diffusion=null"), "sample: needs a denoiser; add a section `diffusion:`"),
        (at("sample.guidance.start=0.5", "sample.guidance.end=0.5"), "sample.guidance.start: the interval starts at 0.5 and must end later, not at 0.5"),
        (at("diffusion.label_dropout=0"), "diffusion.label_dropout: at 0 the null class that guidance needs is never trained"),
        (at("runtime.micro_batch=3"), "runtime.micro_batch: 3 does not divide semantic.train.batch = 8"),
        (at("autoencoder.adversary.norm=batch", "runtime.micro_batch=4"), "autoencoder.adversary.norm_batch: 8 does not divide the 4 images of a pass (runtime.micro_batch, autoencoder.train.batch)"),
        (at("diffusion.train.decay_end=9"), "diffusion.train.decay_end: belongs to `schedule: cosine` or `linear`, and the schedule is constant"),
        (at("diffusion.train={steps: 20, batch: 8, schedule: linear, decay_start: 20}"), "diffusion.train.decay_start: the learning rate would fall from step 20, after warm-up, to step 20; let it end later"),
        (at("diffusion.train={steps: 20, batch: 8, schedule: linear, warmup: 5, decay_end: 0.25}"), "diffusion.train.decay_end: the learning rate would fall from step 5, after warm-up, to step 5; let it end later"),
        (at("evaluate.metrics[0].use=judge", "sample=null"), "evaluate.metrics[0].use: metric 'judge' judges samples; add a section `sample:`"),
        (at("autoencoder.probe={metrics: [{use: judge}]}"), "autoencoder.probe.metrics[0].use: metric 'judge' judges samples, and here metrics judge reconstructions"),
        (at("autoencoder.probe={loss: null, metrics: []}"), "autoencoder.probe: asks for nothing: give it a `loss` or `metrics`, or leave it out"),
        (at("diffusion.probe={loss: null}"), "diffusion.probe: asks for nothing"),
        (at("autoencoder.train.init=/no/such/place"), "autoencoder.train.init: there is no /no/such/place"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_told_where_to_mend_it(problems: Problems, overrides: tuple[str, ...], expected: str) -> None:
    found = problems(overrides=overrides)
    assert [line for line in found if f": {expected}" in line], found
    others = [line for line in found if f": {expected}" not in line]
    assert all("micro_batch: 3 does not divide" in line for line in others), others


def test_a_rule_has_the_line_of_the_key(problems: Problems) -> None:
    assert problems(("stride: 8", "stride: 7")) == [
        "4: image.stride: 7 does not divide the image size 32; 4 or 8 would"
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        at("autoencoder.adversary.start=19"),
        at("autoencoder.adversary.start=0"),
        at("autoencoder.adversary.norm=batch", "runtime.micro_batch=8"),
        at("autoencoder.adversary={norm: batch, norm_batch: 2}", "runtime.micro_batch=4"),
        at("diffusion.train={steps: 20, batch: 8, schedule: linear, decay_start: 5, decay_end: 200}"),
        at("diffusion.train={steps: 20, batch: 8, schedule: linear, decay_start: 50, decay_end: 200}"),
        at("runtime.micro_batch=64"),
        at("autoencoder.weights={l1: 0, l2: 1, log_variance: -1.5}", "autoencoder.adversary.adaptive=true"),
        at("aligner={use: post, adaptive: true}", "semantic={}"),
        at("diffusion.label_dropout=0", "sample.guidance.scale=1"),
        at("aligner={use: none}", "teacher=null", "semantic={}"),
        at("latents.normalize=scalar", "latents.scale=0.18215"),
        at("diffusion=null", "sample=null", "latents=null"),
        at("autoencoder.perceptual=null"),
    ],
)
def test_what_only_looks_wrong_is_allowed(load: Load, overrides: tuple[str, ...]) -> None:
    assert isinstance(load(overrides=overrides), Recipe)


def test_a_sampler_goes_with_what_the_field_offers(problems: Problems) -> None:
    found = problems(("{use: euler, steps: 4}", "{use: picky}"))
    assert found == [
        "32: sample.sampler.use: sampler 'picky' needs the field's curvature; path 'linear' offers data, noise, score, velocity",
        "32: sample.sampler.use: sampler 'picky' needs a denoiser with a learned variance; 'lightning_dit' has none",
    ]


def test_rules_are_judged_beside_sections_that_are_wrong(problems: Problems) -> None:
    found = problems(("stride: 8", "stride: 7"), ("    lr: 1e-3", "    lr: fast"), ("latents: {}\n", ""))
    assert found == [
        "4: image.stride: 7 does not divide the image size 32; 4 or 8 would",
        '25: autoencoder.train.lr: expected a number, got "fast"',
        "26: diffusion: trains on cached latents; add a section `latents: {}`",
    ]


def test_a_rule_does_not_judge_what_a_misspelt_section_may_have_said(problems: Problems) -> None:
    assert problems(("latents: {}", "latens: {}")) == ["26: latens: unknown key -- did you mean 'latents'?"]
    assert problems(("latents: {}", "latents: {flip: 1}")) == ["26: latents.flip: expected true or false, got 1"]


def test_what_is_taken_from_elsewhere_needs_no_teacher(load: Load, base: str, tmp_path: Path) -> None:
    section = base[base.index("autoencoder:") : base.index("latents:")]
    elsewhere = f"autoencoder: {{from: {tmp_path}}}\n"
    semantic = f"semantic: {{from: {tmp_path}}}\n"
    recipe = load(
        (section, elsewhere), ("semantic:\n  train: {steps: 10, batch: 8}\n", semantic), overrides=("teacher=null",)
    )
    assert recipe.teacher is None


def test_what_is_yet_to_be_imported_is_a_warning(registry: Registry, write: Callable[..., Path]) -> None:
    checked = check_recipe(write(), registry, overrides=at("latents={from: /no/such/place}"))
    assert [(w.dotted, w.text) for w in checked.warnings] == [
        ("latents.from", "there is no /no/such/place; a run needs it")
    ]


def test_what_leaves_a_gpu_idle_is_a_warning(
    registry: Registry, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warned(*overrides: str) -> set[str]:
        checked = check_recipe(write(), registry, overrides=("autoencoder.train.precision=auto", *overrides))
        return {w.dotted for w in checked.warnings}

    idle = {f"{section}.precision" for section in ("semantic.train", "latents", "diffusion.train", "sample")}
    assert warned("runtime.device=cuda") == idle | {"runtime.workers"}
    assert warned("runtime.device=cuda", "runtime.workers=4", "sample.precision=tf32") == idle - {"sample.precision"}
    assert not warned("runtime.device=cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert warned() == idle | {"runtime.workers"}


def test_checkpoints_for_good_that_are_seldom_saved_are_a_warning(
    registry: Registry, write: Callable[..., Path]
) -> None:
    checked = check_recipe(write(), registry, overrides=at("runtime.keep_every=15", "runtime.save_every=10"))
    assert [(w.dotted, w.text) for w in checked.warnings] == [
        ("runtime.keep_every", "15 is no multiple of runtime.save_every, 10: multiples of 30 are kept")
    ]
    assert not check_recipe(write(), registry, overrides=at("runtime.keep_every=20", "runtime.save_every=10")).warnings
