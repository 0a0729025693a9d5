"""The recipe as pydantic models, one section a stage. Components stand in slots and are typed by the loader, which fits
this schema to the document at hand (`load.py`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from gaekit.api import ComponentConfig, Slot

Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "bf16", "auto"]
StepsOrFraction = Annotated[int | float, Field(ge=0)]
"""An int counts steps; a float below 1 is a fraction of the training."""


def neutral(value: Any, **keywords: Any) -> Any:
    """A field whose default does nothing: at that value it is left out of fingerprints, so that adding the field to
    the schema orphans no room of before."""
    return Field(default=value, json_schema_extra={"neutral": value}, **keywords)


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class From(Section):
    """A stage taken from elsewhere: `{from: PATH}`, an artifact folder or file of another run or an import."""

    path: str = Field(alias="from", description="artifact to take instead of running this stage")


class Image(Section):
    """What the autoencoder sees."""

    size: PositiveInt = Field(description="side of the square images, pixels")
    stride: PositiveInt = Field(description="pixels of a side for each latent position")

    @property
    def grid(self) -> int:
        """Side of the latent grid."""
        return self.size // self.stride


class Train(Section):
    """Settings of one training. `batch` is the global batch: images a step over all ranks and micro-batches."""

    steps: PositiveInt
    batch: PositiveInt = Field(description="global batch")
    lr: PositiveFloat = Field(default=1e-4, description="peak learning rate of AdamW")
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: PositiveFloat = neutral(1e-8)
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled; never on tensors of one dimension")
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: StepsOrFraction = Field(default=0, description="linear warm-up: steps (int) or a fraction of the training")
    final_lr: Fraction = Field(default=0.0, description="where the cosine ends, as a fraction of lr")
    clip: PositiveFloat | None = Field(default=1.0, description="largest norm of the gradient")
    ema: Fraction | None = Field(default=None, description="decay a step of the averaged weights; null keeps none")
    precision: Precision = Field(default="float32", description="auto: bf16 on CUDA, float32 on a CPU")
    init: str | None = neutral(None, description="artifact whose weights training starts from")


class Semantic(Section):
    """Fitting the aligner to the teacher's features (GAE's semantic teacher)."""

    train: Train | None = Field(default=None, description="needed by aligners that are trained")
    images: PositiveInt | None = neutral(None, description="how many images a closed-form fit looks at; null is all")


class Weights(Section):
    """Weights of the autoencoder's reconstruction terms."""

    l1: NonNegativeFloat = 1.0
    l2: NonNegativeFloat = neutral(0.0)
    perceptual: NonNegativeFloat = 1.0


class Adversary(Section):
    """PatchGAN discriminator (pix2pix, arXiv 1611.07004) with hinge or vanilla loss."""

    weight: PositiveFloat = 0.5
    adaptive: bool = Field(default=False, description="scale the weight by the ratio of gradients at the last layer (VQGAN)")
    loss: Literal["hinge", "vanilla"] = "hinge"
    start: StepsOrFraction = Field(default=0.25, description="when it joins: a step (int) or a fraction of the training")
    warmup: StepsOrFraction = Field(default=0, description="how long its weight rises to the full one")
    channels: PositiveInt = 64
    layers: PositiveInt = Field(default=3, description="strided convolutions")
    norm: Literal["group", "batch"] = "group"
    diffaug: bool = neutral(False, description="translation, colour and cutout on both real and fake (arXiv 2006.10738)")
    lr: PositiveFloat | None = Field(default=None, description="learning rate; null is the autoencoder's")
    betas: tuple[Fraction, Fraction] | None = Field(default=None, description="null is the autoencoder's")


class Autoencoder(Section):
    """The image autoencoder."""

    encoder: Annotated[ComponentConfig, Slot("encoder")]
    decoder: Annotated[ComponentConfig, Slot("decoder")]
    regularizer: Annotated[ComponentConfig, Slot("regularizer")]
    noise: Annotated[ComponentConfig, Slot("noise")]
    perceptual: Annotated[ComponentConfig | None, Slot("perceptual")] = None
    adversary: Adversary | None = None
    weights: Weights = Weights()
    flip: bool = Field(default=True, description="mirror images at random while training")
    train: Train


class Latents(Section):
    """The cache of latents that the denoiser trains on."""

    flip: bool = Field(default=True, description="store the mirror image's latent too")
    store: Literal["mean", "moments"] = Field(default="mean", description="moments: mean and std, sampled each visit")
    normalize: Literal["channel", "scalar", "none"] = Field(default="channel", description="standardise by cache statistics")
    scale: PositiveFloat | None = neutral(None, description="the fixed factor of `normalize: scalar` (SD: 0.18215)")
    dtype: Literal["float32", "bf16"] = "float32"
    batch: PositiveInt = Field(default=64, description="images encoded at once")
    precision: Precision = "float32"


class Diffusion(Section):
    """Training the denoiser on the cached latents."""

    path: Literal["linear", "gvp", "vp"] = "linear"
    denoiser: Annotated[ComponentConfig, Slot("denoiser")]
    times: Annotated[ComponentConfig, Slot("times")]
    weighting: Literal["none", "velocity", "likelihood"] = neutral("none", description="of noise and score losses (SiT)")
    cosine: NonNegativeFloat = Field(default=0.0, description="weight of 1 - cosine over channels")
    label_dropout: Fraction = Field(default=0.1, description="how often a label becomes the null class")
    train: Train


class Guidance(Section):
    """Classifier-free guidance: out = null + scale * (conditional - null), for t in [start, end)."""

    scale: NonNegativeFloat = 1.0
    start: Fraction = 0.0
    end: Fraction = 1.0
    channels: Literal["all", "first3"] = "all"


class Sample(Section):
    """Generating images."""

    sampler: Annotated[ComponentConfig, Slot("sampler")]
    guidance: Guidance = Guidance()
    count: PositiveInt
    labels: Literal["balanced", "random"] = "balanced"
    batch: PositiveInt = Field(default=64, description="images a chunk; decides the last bit of the result")
    ema: bool = Field(default=True, description="use the averaged weights where there are some")
    precision: Precision = "float32"
    also_unguided: bool = Field(default=False, description="also sample without guidance, from the same noise")


class Evaluate(Section):
    """Numbers about the result."""

    metrics: Annotated[tuple[ComponentConfig, ...], Slot("metric")]
    batch: PositiveInt = Field(default=64, description="images at once")


class Runtime(Section):
    """What does not change results, and is no part of a fingerprint."""

    device: str = Field(default="auto", description="auto: cuda where there is one, else cpu")
    workers: NonNegativeInt = Field(default=0, description="processes that decode images")
    threads: PositiveInt | None = Field(default=None, description="torch's CPU threads; null leaves torch's choice")
    attention: Literal["auto", "xformers", "sdpa", "math"] = "auto"
    compile: bool = False
    micro_batch: PositiveInt | None = Field(default=None, description="images a forward pass; gradients accumulate to the batch")
    log_every: PositiveInt = 50
    images_every: PositiveInt | None = Field(default=None, description="steps between pictures; null is every save")
    save_every: PositiveInt = 1000
    keep: PositiveInt = Field(default=2, description="checkpoints kept a stage")
    cache_gb: NonNegativeFloat = Field(default=4.0, description="teacher features and decoded images are kept up to this size")
    trackers: Annotated[tuple[ComponentConfig, ...], Slot("tracker")] = (ComponentConfig(use="tensorboard"),)


class Recipe(Section):
    """A whole experiment: what `gaekit run` runs. Sections that are absent are stages that do not run."""

    recipe: Literal[1] = Field(description="version of the recipe format")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder under runs/")]
    seed: NonNegativeInt = 0
    image: Image
    latent_dim: PositiveInt = Field(description="D, channels of the latent")
    dataset: Annotated[ComponentConfig, Slot("dataset")]
    teacher: Annotated[ComponentConfig | None, Slot("teacher")] = None
    aligner: Annotated[ComponentConfig, Slot("aligner")] = ComponentConfig(use="none")
    semantic: Semantic | From = Semantic()
    autoencoder: Autoencoder | From
    latents: Latents | From | None = None
    diffusion: Diffusion | From | None = None
    sample: Sample | None = None
    evaluate: Evaluate | None = None
    runtime: Runtime = Runtime()
