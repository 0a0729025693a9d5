"""What no single field can tell: plain functions over a recipe, each yielding the problems it sees.

A rule may be run on a recipe of which some sections are invalid; reading one of those raises Unreadable and ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from gaekit.api import Aligner, ComponentConfig, Denoiser, Metric, Sampler
from gaekit.errors import Problem
from gaekit.flow.processes import get_process
from gaekit.plugins import Registry
from gaekit.recipe.schema import Autoencoder, Diffusion, From, Latents, Recipe, Semantic, steps_of

Rule = Callable[[Recipe, Registry], Iterable[Problem]]


class Unreadable(Exception):
    """A rule asked for a section that is not valid."""


def broken_rules(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The problems of all rules that can be judged."""
    return _run(RULES, recipe, registry)


def doubts(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What is allowed but probably not meant; `gaekit check` shows it as warnings."""
    return _run(DOUBTS, recipe, registry)


def _run(rules: Iterable[Rule], recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    for rule in rules:
        try:
            yield from rule(recipe, registry)
        except Unreadable:
            continue


def name_is_free(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The run has a folder of its own beside that of all rooms, on disks without capitals too."""
    if recipe.name.casefold() in ("store", "try"):
        of = "all runs keep their results" if recipe.name.casefold() == "store" else "`gaekit run --try` keeps its runs"
        yield Problem(("name",), f"'{recipe.name}' is the folder in which {of}; choose another")


def stride_divides_size(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The latent grid is whole."""
    size, stride = recipe.image.size, recipe.image.stride
    if size % stride:
        divisors = [s for s in range(1, size + 1) if size % s == 0]
        fits = [*[s for s in divisors if s < stride][-1:], *[s for s in divisors if s > stride][:1]]
        text = f"{stride} does not divide the image size {size}; {' or '.join(map(str, fits))} would"
        yield Problem(("image", "stride"), text, related=(("image", "size"),))


def _moment(path: tuple[str, ...], value: float, steps: int, what: str) -> Iterator[Problem]:
    """A step (int) or a fraction (float) before the end of a training of so many steps."""
    if isinstance(value, float) and value >= 1:
        text = f"{what} {value} is a fraction of the training, below 1; a number of steps is written without a point"
        yield Problem(path, text)
    elif isinstance(value, int) and value >= steps:
        yield Problem(path, f"{what} {value} is not before the end of the training at step {steps}")


def adversary_starts_before_the_end(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """A discriminator that never joins would be dropped in silence."""
    section = recipe.autoencoder
    if isinstance(section, Autoencoder) and section.adversary:
        at, steps = ("autoencoder", "adversary"), section.train.steps
        yield from _moment((*at, "start"), section.adversary.start, steps, "start")
        yield from _moment((*at, "warmup"), section.adversary.warmup, steps, "warm-up")


def something_is_reconstructed(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What is relative to the reconstruction's loss finds one."""
    section = recipe.autoencoder
    if not isinstance(section, Autoencoder):
        return
    weights = section.weights
    if weights.l1 or weights.l2 or (weights.perceptual and section.perceptual):
        return
    text = "is relative to the reconstruction, which has no term: give autoencoder.weights.l1 or l2 a weight"
    if weights.log_variance is not None:
        yield Problem(("autoencoder", "weights", "log_variance"), text)
    if section.adversary and section.adversary.adaptive:
        yield Problem(("autoencoder", "adversary", "adaptive"), text)


def warmup_ends_before_the_end(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The peak of the learning rate is reached."""
    for stage, train in recipe.trainings():
        yield from _moment((stage, "train", "warmup"), train.warmup, train.steps, "warm-up")


def decay_goes_with_a_fall(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The learning rate falls between two steps in order, both perhaps beyond the last; a constant one has neither."""
    for stage, train in recipe.trainings():
        at = (stage, "train")
        if train.schedule == "constant":
            for key, idle in (("decay_start", 0), ("decay_end", None)):
                if getattr(train, key) != idle:
                    yield Problem((*at, key), "belongs to `schedule: cosine` or `linear`, and the schedule is constant")
            continue
        end = train.steps if train.decay_end is None else steps_of(train.decay_end, train.steps)
        begin = max(steps_of(value, train.steps) for value in (train.warmup, train.decay_start))
        if end <= begin:
            key = "decay_start" if train.decay_end is None else "decay_end"
            text = f"the learning rate would fall from step {begin}, after warm-up, to step {end}; let it end later"
            yield Problem((*at, key), text)


def aligner_has_a_teacher(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """An aligner that reads features has somewhere to take them from."""
    needs = _aligner(recipe, registry).needs_teacher
    if needs is True and recipe.teacher is None and not _all_imported(recipe):
        text = f"aligner '{recipe.aligner.use}' needs a teacher; add a section `teacher: {{use: ...}}`"
        yield Problem(("aligner",), text)


def trained_aligner_has_its_training(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The semantic stage knows how long to train."""
    section = recipe.semantic
    if _aligner(recipe, registry).fit == "train" and isinstance(section, Semantic) and section.train is None:
        yield Problem(("semantic",), f"aligner '{recipe.aligner.use}' is trained in this stage; say how with "
                                     f"`semantic: {{train: {{steps: ..., batch: ...}}}}`")  # fmt: skip


def online_says_how_many_images(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """`latents.images` is of `online` alone: a cache is of all images."""
    section = recipe.latents
    if isinstance(section, Latents) and section.images is not None and not section.online:
        text = "goes with `online: true`; a cache holds every image, and is measured whole"
        yield Problem(("latents", "images"), text)


def scale_goes_with_scalar(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """`latents.scale` is the factor of `normalize: scalar`, and of nothing else."""
    section = recipe.latents
    if isinstance(section, Latents) and section.scale is not None and section.normalize != "scalar":
        text = f"a fixed scale goes with `normalize: scalar`, not with `normalize: {section.normalize}`"
        yield Problem(("latents", "scale"), text)
    if isinstance(section, Latents) and section.scale is None and section.normalize == "scalar":
        yield Problem(
            ("latents", "normalize"), "scalar needs the factor too: `scale: 0.18215` is that of Stable Diffusion"
        )


def diffusion_has_latents(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The denoiser has something to train on."""
    if isinstance(recipe.diffusion, Diffusion) and recipe.latents is None:
        yield Problem(("diffusion",), "trains on cached latents; add a section `latents: {}`")


def sample_has_a_denoiser(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Samples come from a denoiser."""
    if recipe.sample is not None and recipe.diffusion is None:
        yield Problem(("sample",), "needs a denoiser; add a section `diffusion:`, its settings or `{from: PATH}`")


def sampler_goes_with_the_denoiser(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The field of this path and denoiser offers what the samplers evaluate."""
    section = recipe.diffusion
    if not isinstance(section, Diffusion):
        return
    found: dict[tuple[str, ...], ComponentConfig] = {}
    if recipe.sample is not None:
        found["sample", "sampler", "use"] = recipe.sample.sampler
    if section.probe is not None and section.probe.sampler is not None:
        found["diffusion", "probe", "sampler", "use"] = section.probe.sampler
    denoiser, offers = registry.find("denoiser", section.denoiser.use), get_process(section.path).offers
    assert issubclass(denoiser, Denoiser)
    for at, config in found.items():
        sampler = registry.find("sampler", config.use)
        assert issubclass(sampler, Sampler)
        for quantity in sorted(sampler.needs - offers - {"variance"}):
            offered = f"path '{section.path}' offers {', '.join(sorted(offers))}"
            yield Problem(at, f"sampler '{sampler.name}' needs the field's {quantity}; {offered}")
        if "variance" in sampler.needs and denoiser.learned_variance is False:  # a property is decided when it is built
            text = f"sampler '{sampler.name}' needs a denoiser with a learned variance; '{denoiser.name}' has none"
            yield Problem(at, text)
    predicts = denoiser.predicts  # where it is a property, what is predicted is known once it is built
    if found and isinstance(predicts, str) and predicts not in offers:
        text = f"denoiser '{denoiser.name}' predicts {predicts}, which path '{section.path}' does not have; "
        yield Problem(("diffusion", "denoiser", "use"), text + f"it offers {', '.join(sorted(offers - {'steps'}))}")


def ddpm_has_its_own_losses(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What weighs flow matching does nothing on DDPM's chain, and the other way round."""
    section = recipe.diffusion
    if not isinstance(section, Diffusion):
        return
    if section.path != "ddpm" and section.betas != "linear":
        yield Problem(("diffusion", "betas"), f"is the schedule of path 'ddpm', and the path is '{section.path}'")
    for key, idle in (("cosine", 0.0), ("weighting", "none")) if section.path == "ddpm" else ():
        if getattr(section, key) != idle:
            text = f"belongs to flow matching, and path 'ddpm' has losses of its own; leave it at {idle}"
            yield Problem(("diffusion", key), text)


def guidance_interval_is_one(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Guidance acts somewhere."""
    if recipe.sample and recipe.sample.guidance.start >= recipe.sample.guidance.end:
        guidance = recipe.sample.guidance
        text = f"the interval starts at {guidance.start:g} and must end later, not at {guidance.end:g}; t = 0 is noise"
        yield Problem(("sample", "guidance", "start"), text)


def guidance_has_a_null_class(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The null label has been trained."""
    section = recipe.diffusion
    if not recipe.sample or not isinstance(section, Diffusion) or section.label_dropout > 0:
        return
    if recipe.sample.guidance.scale != 1 and recipe.sample.guidance.weak is None:
        text = "at 0 the null class that guidance needs is never trained; 0.1 is usual, or set sample.guidance.scale: 1"
        yield Problem(("diffusion", "label_dropout"), text)


def micro_batch_divides_batches(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Every micro-batch of a step weighs the same."""
    micro = recipe.runtime.micro_batch
    for stage, train in recipe.trainings() if micro else ():
        if micro and train.batch % min(micro, train.batch):
            text = f"{micro} does not divide {stage}.train.batch = {train.batch}"
            yield Problem(("runtime", "micro_batch"), text)


def batch_norm_divides_a_pass(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """The images of a pass are whole groups of those whose statistics batch norm takes."""
    section, micro = recipe.autoencoder, recipe.runtime.micro_batch
    if not isinstance(section, Autoencoder) or section.adversary is None or section.adversary.norm != "batch":
        return
    count, images = section.adversary.norm_batch, min(micro or section.train.batch, section.train.batch)
    if images % count:
        text = f"{count} does not divide the {images} images of a pass (runtime.micro_batch, autoencoder.train.batch)"
        yield Problem(("autoencoder", "adversary", "norm_batch"), text)


def metrics_have_samples(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """A metric of samples has some to judge."""
    for index, config in enumerate(recipe.evaluate.metrics if recipe.evaluate else ()):
        metric = registry.find("metric", config.use)
        assert issubclass(metric, Metric)
        if getattr(metric, "needs", None) == "samples" and recipe.sample is None:
            text = f"metric '{config.use}' judges samples; add a section `sample:`, or leave it out"
            yield Problem(("evaluate", "metrics", index, "use"), text)


def probe_asks_for_something(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """A probe has numbers to tell, and its metrics judge what there is to be judged."""
    kinds = {"autoencoder": ("pairs", "reconstructions"), "diffusion": ("samples", "samples")}
    for stage, (needs, judged) in kinds.items():
        section = recipe.autoencoder if stage == "autoencoder" else recipe.diffusion
        if not isinstance(section, Autoencoder | Diffusion) or section.probe is None:
            continue
        at, probe = (stage, "probe"), section.probe
        if probe.loss is None and not probe.metrics:
            yield Problem(at, "asks for nothing: give it a `loss` or `metrics`, or leave it out")
        for index, config in enumerate(probe.metrics):
            metric = registry.find("metric", config.use)
            if (own := getattr(metric, "needs", None)) != needs:
                text = f"metric '{config.use}' judges {own}, and here metrics judge {judged}; give it to `evaluate`"
                yield Problem((*at, "metrics", index, "use"), text)


def initial_weights_exist(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What a training starts from is there; what it holds is for the run to see."""
    for stage, train in recipe.trainings():
        if train.init is not None and stage == "semantic":
            yield Problem((stage, "train", "init"), "an aligner is fitted from the beginning; leave `init` out")
        elif train.init is not None and not Path(train.init).expanduser().exists():
            yield Problem((stage, "train", "init"), f"there is no {train.init}")


RULES: tuple[Rule, ...] = (
    name_is_free,
    stride_divides_size,
    adversary_starts_before_the_end,
    something_is_reconstructed,
    warmup_ends_before_the_end,
    decay_goes_with_a_fall,
    aligner_has_a_teacher,
    trained_aligner_has_its_training,
    online_says_how_many_images,
    scale_goes_with_scalar,
    diffusion_has_latents,
    sample_has_a_denoiser,
    sampler_goes_with_the_denoiser,
    ddpm_has_its_own_losses,
    guidance_interval_is_one,
    guidance_has_a_null_class,
    micro_batch_divides_batches,
    batch_norm_divides_a_pass,
    metrics_have_samples,
    probe_asks_for_something,
    initial_weights_exist,
)


def bf16_on_a_cpu(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """It works, slowly on most."""
    if recipe.runtime.device == "cpu":
        for stage, train in recipe.trainings():
            if train.precision == "bf16":
                text = "bf16 is slower than float32 on most CPUs; `auto` decides by the device"
                yield Problem((stage, "train", "precision"), text)


def gpu_is_used_well(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Defaults that suit a CPU leave a GPU waiting, or have it compute in float32 many times as long as in bf16."""
    device = recipe.runtime.device
    if not (device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())):
        return
    computing: dict[tuple[str, ...], str] = {(s, "train", "precision"): t.precision for s, t in recipe.trainings()}
    if isinstance(recipe.latents, Latents):
        computing["latents", "precision"] = recipe.latents.precision
    if recipe.sample:
        computing["sample", "precision"] = recipe.sample.precision
    for path, precision in computing.items():
        if precision == "float32":
            text = "float32 leaves most of a GPU's arithmetic unused; `auto` is bf16 where a card has it, tf32 the next"
            yield Problem(path, text)
    images = any(stage != "diffusion" for stage, _ in recipe.trainings()) or isinstance(recipe.latents, Latents)
    if images and recipe.runtime.workers == 0:
        text = "one process decodes all images while the GPU waits; give about as many as the CPU has cores"
        yield Problem(("runtime", "workers"), text)


def semantic_training_is_used(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Settings of a stage that has nothing to train."""
    aligner, section = _aligner(recipe, registry), recipe.semantic
    if aligner.fit != "train" and isinstance(section, Semantic) and section.train is not None:
        yield Problem(
            ("semantic", "train"), f"is not used: aligner '{recipe.aligner.use}' is not trained in this stage"
        )


def imported_artifacts_exist(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What is taken from elsewhere may yet be imported, as data may yet be fetched; a run refuses to start without."""
    for stage, section in recipe.sections():
        if isinstance(section, From) and not Path(section.path).expanduser().exists():
            yield Problem((stage, "from"), f"there is no {section.path}; a run needs it")


def weak_denoiser_exists_and_acts(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """What guides may yet be trained; at scale 1 it guides nothing."""
    guidance = recipe.sample.guidance if recipe.sample else None
    if guidance is None or guidance.weak is None:
        return
    at = ("sample", "guidance", "weak")
    if not Path(guidance.weak.path).expanduser().exists():
        yield Problem((*at, "from"), f"there is no {guidance.weak.path}; a run needs it")
    if guidance.scale == 1:
        yield Problem(at, "is not used: sample.guidance.scale is 1, which is no guidance")


def checkpoints_for_good_are_saved(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """Where the two intervals do not fit, only the steps that both meet are kept."""
    save, keep = recipe.runtime.save_every, recipe.runtime.keep_every
    if keep is not None and keep % save:
        text = f"{keep} is no multiple of runtime.save_every, {save}: multiples of {math.lcm(save, keep)} are kept"
        yield Problem(("runtime", "keep_every"), text)


def sampler_of_a_probe_is_used(recipe: Recipe, registry: Registry) -> Iterator[Problem]:
    """It draws samples for metrics."""
    probe = recipe.diffusion.probe if isinstance(recipe.diffusion, Diffusion) else None
    if probe is not None and probe.sampler is not None and not probe.metrics:
        yield Problem(("diffusion", "probe", "sampler"), "is not used: no metric of the probe judges samples")


DOUBTS: tuple[Rule, ...] = (
    bf16_on_a_cpu,
    gpu_is_used_well,
    semantic_training_is_used,
    imported_artifacts_exist,
    weak_denoiser_exists_and_acts,
    checkpoints_for_good_are_saved,
    sampler_of_a_probe_is_used,
)


def _aligner(recipe: Recipe, registry: Registry) -> type[Aligner]:
    aligner = registry.find("aligner", recipe.aligner.use)
    assert issubclass(aligner, Aligner)
    return aligner


def _all_imported(recipe: Recipe) -> bool:
    """Neither stage that reads the teacher runs."""
    return isinstance(recipe.semantic, From) and isinstance(recipe.autoencoder, From)
