"""The recipe as pydantic models, one section a stage. Components stand in slots and are typed by the loader, which fits
this schema to the document at hand (`load.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from gaekit.api import ComponentConfig, Slot
from gaekit.recipe.probe import AutoencoderProbe, DiffusionProbe
from gaekit.recipe.section import Count as Count
from gaekit.recipe.section import Section as Section
from gaekit.recipe.section import neutral as neutral

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of an average stays at each step; at 1 it would never move."""
Precision = Literal["float32", "tf32", "bf16", "auto"]
PRECISIONS = "tf32: float32 with shorter products on CUDA; auto: bf16 where a CUDA card has it, else float32"
Side = Annotated[int, Field(gt=0, le=1 << 16)]
"""Pixels or channels: beyond 65,536 nothing could be trained, and looking at it alone would take for ever."""
StepsOrFraction = Annotated[int | float, Field(ge=0)]
"""An int counts steps; a float is a fraction of the training."""


def steps_of(value: int | float, total: int) -> int:
    """Steps from a setting that is a number of steps (int) or a fraction of a training of `total` steps (float)."""
    return value if isinstance(value, int) else round(value * total)


def _ascending(steps: tuple[int, int]) -> tuple[int, int]:
    if steps[0] >= steps[1]:
        raise ValueError(f"[{steps[0]}, {steps[1]}]: the first step must come before the last")
    return steps


class StageSection(Section):
    """Base of the sections of stages: one that trains a network says here how."""

    @property
    def training(self) -> Train | None:
        """Settings of the stage's training; None where it trains nothing."""
        return None

    @property
    def moments(self) -> tuple[int | float, ...]:
        """Moments of the training beside those in `train`: steps (int), or fractions of all steps (float)."""
        return ()

    @property
    def depends_on_batch(self) -> bool:
        """Whether the loss of an image depends on the other images of a forward pass; components tell their own."""
        return False

    @property
    def deciding(self) -> Self:
        """The section without what decides nothing of the stage's result."""
        return self


class From(StageSection):
    """A stage taken from elsewhere: `{from: PATH}`, an artifact folder or file of another run or an import."""

    path: str = Field(alias="from", description="artifact to take instead of running this stage")


class Image(Section):
    """What the autoencoder sees."""

    size: Side = Field(description="side of the square images, pixels")
    stride: Side = Field(description="pixels of a side for each latent position")

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        return self.size // self.stride


class Train(Section):
    """Settings of one training. `batch` is the global batch: images a step over all ranks and micro-batches."""

    steps: Count = Field(description="optimizer steps in all")
    batch: Count = Field(description="images a step, over all ranks and micro-batches")
    lr: PositiveFloat = Field(default=1e-4, description="peak learning rate of AdamW")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.95), description="of AdamW")
    eps: PositiveFloat = neutral(1e-8, description="of AdamW")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled; never on tensors of one dimension")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant", description="how the learning rate falls after warm-up"
    )
    warmup: StepsOrFraction = Field(default=0, description="linear warm-up: steps (int) or a fraction of the training")
    decay_start: StepsOrFraction = neutral(0, description="the fall begins there, not before the end of warm-up")
    decay_end: StepsOrFraction | None = neutral(
        None, description="final_lr is reached there and kept; may lie beyond the last step; null is the last step"
    )
    final_lr: Fraction = Field(default=0.0, description="where the fall ends, as a fraction of lr")
    clip: PositiveFloat | None = Field(default=1.0, description="largest norm of the gradient")
    ema: Decay | None = Field(default=None, description="decay a step of the averaged weights; null keeps none")
    ema_warmup: bool = neutral(False, description="decay min(ema, (1 + step) / (10 + step)), step from 0")
    precision: Precision = Field(default="float32", description=f"of networks, frozen ones too; {PRECISIONS}")
    init: str | None = neutral(None, description="artifact whose weights training starts from")


class Semantic(StageSection):
    """Fitting the aligner to the teacher's features (GAE's semantic teacher)."""

    train: Train | None = Field(default=None, description="needed by aligners that are trained")
    images: PositiveInt | None = neutral(None, description="how many images a closed-form fit looks at; null is all")

    @property
    def training(self) -> Train | None:
        """How the aligner is trained, where it is."""
        return self.train


class Weights(Section):
    """Weights of the autoencoder's reconstruction terms, each a mean over pixels or images.

    With `log_variance` s their weighted sum r becomes r exp(-s) + s, s one number learned with the autoencoder: it
    settles at log r (arXiv 2112.10752's code, there summed over an image's values, here per value).
    """

    l1: NonNegativeFloat = Field(default=1.0, description="of the mean absolute error")
    l2: NonNegativeFloat = neutral(0.0, description="of the mean squared error")
    perceptual: NonNegativeFloat = Field(default=1.0, description="of the perceptual distance, where there is one")
    log_variance: float | None = neutral(
        None, description="start of a learned s that makes the weighted sum r of these terms r exp(-s) + s; null: r"
    )


class Adversary(Section):
    """PatchGAN discriminator (pix2pix, arXiv 1611.07004) with hinge or vanilla loss."""

    weight: PositiveFloat = Field(default=0.5, description="of the generator's adversarial term")
    adaptive: bool = Field(default=False, description="scale the weight by the ratio of last-layer gradients (VQGAN)")
    loss: Literal["hinge", "vanilla"] = Field(default="hinge", description="of the discriminator")
    start: StepsOrFraction = Field(default=0.25, description="when it joins: a step (int) or a fraction of training")
    warmup: StepsOrFraction = Field(default=0, description="how long its weight rises to the full one, likewise")
    channels: PositiveInt = Field(default=64, description="width of the first layer")
    layers: PositiveInt = Field(default=3, description="strided convolutions")
    norm: Literal["group", "batch"] = Field(default="group", description="batch is that of the published weights")
    norm_batch: PositiveInt = Field(
        default=8,
        description="images, in order, whose statistics batch norm takes, as one process of VA-VAE's training",
    )
    diffaug: bool = neutral(False, description="translation, colour, cutout on real and fake (arXiv 2006.10738)")
    lr: PositiveFloat | None = Field(default=None, description="learning rate; null is the autoencoder's")
    betas: tuple[Decay, Decay] = Field(default=(0.5, 0.9), description="of AdamW; those of LDM's and VA-VAE's code")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled; never on tensors of one dimension")
    clip: PositiveFloat | None = Field(default=None, description="largest norm of its gradient; null does not clip")

    def beside(self, train: Train) -> Train:
        """How the discriminator trains beside an autoencoder that trains by `train`."""
        own = {"betas": self.betas, "weight_decay": self.weight_decay, "clip": self.clip, "ema": None}
        return train.model_copy(update={**own, "lr": self.lr or train.lr})


class Autoencoder(StageSection):
    """The image autoencoder."""

    encoder: Annotated[ComponentConfig, Slot("encoder")] = Field(description="image to latent moments")
    decoder: Annotated[ComponentConfig, Slot("decoder")] = Field(description="latent to image")
    regularizer: Annotated[ComponentConfig, Slot("regularizer")] = Field(description="what bounds the latent")
    noise: Annotated[ComponentConfig, Slot("noise")] = Field(description="what the decoder sees while training")
    perceptual: Annotated[ComponentConfig | None, Slot("perceptual")] = Field(
        default=None, description="a distance between images that stands in for a person's; null for none"
    )
    adversary: Adversary | None = Field(default=None, description="a discriminator; null for none")
    weights: Weights = Field(default=Weights(), description="of the reconstruction terms")
    flip: bool = Field(default=True, description="mirror images at random while training")
    train: Train = Field(description="how it is trained")
    probe: AutoencoderProbe | None = neutral(
        None, description="how it is looked at while it trains, which changes nothing; null: not at all"
    )

    @property
    def training(self) -> Train:
        """How autoencoder and adversary are trained."""
        return self.train

    @property
    def moments(self) -> tuple[int | float, ...]:
        """When the adversary joins, and how long its weight rises."""
        return (self.adversary.start, self.adversary.warmup) if self.adversary else ()

    @property
    def depends_on_batch(self) -> bool:
        """With an adaptive weight: gradients are compared in each pass."""
        return self.adversary is not None and self.adversary.adaptive

    @property
    def deciding(self) -> Self:
        """Without the probe."""
        return self.model_copy(update={"probe": None})


class Latents(StageSection):
    """The cache of latents that the denoiser trains on."""

    online: bool = neutral(False, description="keep no cache: the denoiser's training decodes and encodes at each step")
    images: PositiveInt | None = neutral(
        None, description="of how many images, spread evenly, `online` takes the statistics; null is all"
    )
    flip: bool = Field(default=True, description="store the mirror image's latent too")
    store: Literal["mean", "moments"] = Field(default="mean", description="moments: mean and std, sampled each visit")
    normalize: Literal["channel", "scalar", "none"] = Field(
        default="channel", description="channel: by the statistics of the whole cache; scalar: by the factor `scale`"
    )
    scale: PositiveFloat | None = neutral(None, description="the fixed factor of `normalize: scalar` (SD: 0.18215)")
    dtype: Literal["float32", "bf16"] = Field(default="float32", description="of the stored latents")
    batch: Count = Field(default=64, description="images encoded at once")
    precision: Precision = Field(default="float32", description=f"of the encoder; {PRECISIONS}")


class Diffusion(StageSection):
    """Training the denoiser on the cached latents."""

    path: Literal["linear", "gvp", "vp", "ddpm"] = Field(
        default="linear", description="between noise and data; ddpm is its chain of 1,000 integer steps"
    )
    betas: Literal["linear", "cosine"] = neutral("linear", description="noise schedule of path ddpm")
    denoiser: Annotated[ComponentConfig, Slot("denoiser")] = Field(description="the network")
    times: Annotated[ComponentConfig, Slot("times")] = Field(description="which times it is trained at")
    weighting: Literal["none", "velocity", "likelihood"] = neutral(
        "none", description="of noise and score losses (SiT)"
    )
    clamp: PositiveFloat = neutral(
        1e-3, description="least sigma in the weight of an error of the data, under `weighting` (JiT, RAEv2: 0.05)"
    )
    cosine: NonNegativeFloat = Field(default=0.0, description="weight of 1 - cosine over channels")
    label_dropout: Fraction = Field(default=0.1, description="how often a label becomes the null class")
    train: Train = Field(description="how it is trained")
    probe: DiffusionProbe | None = neutral(
        None, description="how it is looked at while it trains, which changes nothing; null: not at all"
    )

    @property
    def training(self) -> Train:
        """How the denoiser is trained."""
        return self.train

    @property
    def deciding(self) -> Self:
        """Without the probe."""
        return self.model_copy(update={"probe": None})


class Weak(Section):
    """A denoiser to be guided away from, in place of the null class: autoguidance (arXiv 2406.02507)."""

    path: str = Field(alias="from", description="run, folder or file of a weaker denoiser of the same latents")


class Guidance(Section):
    """Guidance: out = weak + scale * (strong - weak), for t in [start, end); weak is the null class, or `weak`."""

    scale: NonNegativeFloat = Field(default=1.0, description="1 is no guidance, more guides harder")
    start: Fraction = Field(default=0.0, description="guided from this time on; t = 0 is noise")
    end: Fraction = Field(default=1.0, description="guided until this time; t = 1 is data")
    channels: Literal["all", "first3"] = Field(default="all", description="first3: as DiT, SiT and LightningDiT did")
    weak: Weak | None = neutral(None, description="autoguidance by a weaker denoiser; null is the null class")

    @property
    def is_by_weak(self) -> bool:
        """Whether a weaker denoiser takes part: at scale 1 nothing guides."""
        return self.weak is not None and self.scale != 1


class Sample(StageSection):
    """Generating images."""

    sampler: Annotated[ComponentConfig, Slot("sampler")] = Field(description="the solver from noise to data")
    guidance: Guidance = Field(default=Guidance(), description="classifier-free, or by a weaker denoiser")
    count: Count = Field(description="how many images")
    labels: Literal["balanced", "random"] = Field(default="balanced", description="balanced: each class as often")
    batch: Count = Field(default=64, description="images a chunk; decides the last bit of the result")
    ema: bool = Field(default=True, description="use the averaged weights where there are some")
    precision: Precision = Field(default="float32", description=f"of the denoiser and the decoder; {PRECISIONS}")
    also_unguided: bool = Field(default=False, description="also sample without guidance, from the same noise")


class Evaluate(StageSection):
    """Numbers about the result."""

    metrics: Annotated[tuple[ComponentConfig, ...], Slot("metric")] = Field(description="which numbers")
    batch: Count = Field(default=64, description="images at once")


class Runtime(Section):
    """What does not change results, and is no part of a fingerprint; `micro_batch` does and is, where weights or
    statistics are of one forward pass."""

    device: str = Field(default="auto", description="auto: cuda where there is one, else cpu")
    workers: NonNegativeInt = Field(default=0, description="processes that decode images")
    threads: PositiveInt | None = Field(default=None, description="torch's CPU threads; null leaves torch's choice")
    attention: Literal["auto", "xformers", "sdpa", "math"] = Field(
        default="auto",
        description="backend; auto: xformers where a forward and backward pass by it works here, else SDPA; no timing",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        description="torch.compile the networks; true: repeated blocks one by one, a network without them whole; "
        "auto: repeated blocks alone, on CUDA with Triton",
    )
    checkpointing: bool = Field(
        default=False, description="recompute blocks in the backward pass: less memory, more time, the same numbers"
    )
    micro_batch: PositiveInt | None = Field(
        default=None,
        description="images a forward pass, gradients accumulate to the batch; null is the whole batch",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="over several processes: each holds all weights, or a shard of them (FSDP2)"
    )
    ema_offload: bool = Field(default=False, description="keep averaged weights in the CPU's memory")
    diverging: PositiveFloat | None = Field(
        default=1000.0, description="end a training whose loss stays above so many times its first; null never does"
    )
    log_every: PositiveInt = Field(default=50, description="steps between logged scalars")
    images_every: PositiveInt | None = Field(default=None, description="steps between pictures; null is every save")
    profile: Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ascending)] | None = Field(
        default=None,
        description="[first, last]: steps of each training, counted from 1, that torch's profiler watches",
    )
    report: bool = Field(default=True, description="end a run with report.html, where the extra `report` is installed")
    save_every: PositiveInt = Field(default=1000, description="steps between checkpoints")
    keep: PositiveInt = Field(default=2, description="checkpoints kept a stage")
    keep_every: PositiveInt | None = Field(
        default=None, description="checkpoints at multiples of so many steps are kept for good; null keeps none"
    )
    cache_gb: NonNegativeFloat = Field(
        default=4.0, description="keep teacher features, and in each process images, up to this size"
    )
    trackers: Annotated[tuple[ComponentConfig, ...], Slot("tracker")] = Field(
        default=(ComponentConfig(use="tensorboard"),), description="where scalars and pictures go"
    )


class Recipe(Section):
    """A whole experiment: what `gaekit run` runs. Sections that are absent are stages that do not run."""

    recipe: Literal[1] = Field(description="the version of the recipe format; write `recipe: 1`")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = Field(
        description="the run's folder in runs/"
    )
    seed: NonNegativeInt = Field(default=0, description="what all randomness follows from")
    image: Image = Field(description="what the autoencoder sees")
    latent_dim: Side = Field(description="D, channels of the latent")
    dataset: Annotated[ComponentConfig, Slot("dataset")] = Field(description="the images")
    teacher: Annotated[ComponentConfig | None, Slot("teacher")] = Field(
        default=None, description="the frozen vision model whose features shape the latent space"
    )
    aligner: Annotated[ComponentConfig, Slot("aligner")] = Field(
        default=ComponentConfig(use="none"), description="what pulls the latents towards the teacher's features"
    )
    semantic: Semantic | From = Field(default=Semantic(), description="stage 1: fitting the aligner")
    autoencoder: Autoencoder | From = Field(description="stage 2: image to latent and back")
    latents: Latents | From | None = Field(default=None, description="stage 3: encoding the data set once")
    diffusion: Diffusion | From | None = Field(default=None, description="stage 4: the denoiser of latents")
    sample: Sample | None = Field(default=None, description="stage 5: generating images")
    evaluate: Evaluate | None = Field(default=None, description="stage 6: numbers about the result")
    runtime: Runtime = Field(default=Runtime(), description="what does not change results")

    def sections(self) -> Iterator[tuple[str, StageSection]]:
        """(stage, section) of every stage that the recipe has, in the order of the stages."""
        for name in type(self).model_fields:
            if isinstance(section := getattr(self, name), StageSection):
                yield name, section

    def trainings(self) -> Iterator[tuple[str, Train]]:
        """(stage, settings) of every training that the recipe asks for."""
        for name, section in self.sections():
            if (train := section.training) is not None:
                yield name, train
