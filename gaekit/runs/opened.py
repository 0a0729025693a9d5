"""A run, opened for use: what it is and where it stands, its numbers and curves, and its networks.

What reads the run's files alone imports neither torch nor plugins. What uses its networks needs the plugins of these:
an autoencoder's for `encode`, `decode`, `reconstruct` and `interpolate`, a denoiser's and a sampler's too for `sample`.
Where one lacks, the error names the distribution that provided it when the run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gaekit.errors import ArtifactError, GaekitError
from gaekit.pipeline.view import RECIPE, View
from gaekit.runs.states import Stage, State, stages_of, state_of
from gaekit.store.record import METRICS, read_metrics

if TYPE_CHECKING:
    from torch import Tensor

    from gaekit.plugins import Registry
    from gaekit.recipe.schema import Recipe
    from gaekit.runs.pictures import Picture, Pictures
    from gaekit.stages.data import Data
    from gaekit.stages.machine import Machine
    from gaekit.store.models import Autoencoder, LoadedDenoiser
    from gaekit.train.progress import Reporter

OnStep = Callable[[int, int], None]
"""Called as (steps done, steps in all) while images are made."""


class OpenRun:
    """A run's folder, such as runs/quickstart, finished or not; `gaekit.open` makes one.

    view: its files. Nothing is read before it is asked for. record, stages, metrics and settings are read anew each
    time, networks once.
    """

    def __init__(
        self, view: View, registry: Registry | None = None, reporter: Reporter | None = None, device: str | None = None
    ):
        """`registry`: the plugins, those that are installed by default. `reporter`: where progress is shown, the
        terminal by default. `device`: in place of the recipe's `runtime.device`."""
        self.view = view
        self._registry, self._reporter, self._device = registry, reporter, device

    def __repr__(self) -> str:
        return f"<run {self.path}: {self.state}>"

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.view.path

    @property
    def record(self) -> dict[str, Any]:
        """run.json. Raises ArtifactError where there is none, or where it is damaged."""
        return self.view.record

    @property
    def stages(self) -> dict[str, Stage]:
        """Its stages by name, in order: their state, seconds, record and room."""
        return stages_of(self.view)

    @property
    def state(self) -> State:
        """done, running, stopped or failed."""
        return state_of(self.record, self.stages)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Every number by its name: {"value", "protocol"}, and "interval" where it has one; {} before there are any.

        Raises ArtifactError where metrics.json is damaged.
        """
        file = self.path / METRICS
        return read_metrics(file) if file.exists() else {}

    @property
    def curves(self) -> dict[str, Any]:
        """Every scalar that was logged, by stage: loss terms, learning rates, probes (`probe/...`).

        Where pandas is installed a frame for each stage, its index the step, with a column for each scalar and one for
        the training's `seconds`; else the same as lists: {"step": [...], "seconds": [...], "loss/...": [...]}. A step
        that logged no such scalar has nan. Raises ArtifactError where a file is damaged.
        """
        from gaekit.runs.frames import columns_of, frame_of

        found = {name: columns_of(stage.curves) for name, stage in self.stages.items()}
        return {name: frame_of(columns) for name, columns in found.items() if columns["step"]}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved recipe as plain data; needs no plugin. Raises ArtifactError where it is missing."""
        from gaekit.recipe.document import read_document

        return dict(read_document(self._recipe_text(), str(self.path / RECIPE)).data)

    def _recipe_text(self) -> str:
        try:
            return (self.path / RECIPE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{self.path / RECIPE}: cannot be read: {error}") from error

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe, typed; a component that no plugin here provides stands as AbsentConfig."""
        from gaekit.recipe.load import load_resolved

        recipe = load_resolved(self.path / RECIPE, self.registry)
        if self._device is None:
            return recipe
        return recipe.model_copy(update={"runtime": recipe.runtime.model_copy(update={"device": self._device})})

    @cached_property
    def registry(self) -> Registry:
        """The plugins that are installed here, and who provided the run's components where it was made."""
        from dataclasses import replace

        from gaekit.plugins import load_plugins

        recorded = self.record.get("components", {}).items()
        homes = {tuple(key.split(":", 1)): f"{home['distribution']}=={home['version']}" for key, home in recorded}
        return replace(self._registry or load_plugins(), recorded=homes)

    @cached_property
    def reporter(self) -> Reporter:
        """Where it shows what it does."""
        from gaekit.train.progress import Reporter

        return self._reporter or Reporter()

    @cached_property
    def machine(self) -> Machine:
        """This machine, used as the recipe says."""
        from gaekit.stages.machine import open_machine

        return open_machine(self.recipe.runtime, self.reporter)

    @cached_property
    def data(self) -> Data:
        """The recipe's images."""
        from gaekit.stages.data import Data

        return Data(self.recipe, self.registry)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The run's autoencoder, ready to use."""
        from gaekit.store.models import load_autoencoder

        model = load_autoencoder(self.view.artifact("autoencoder"), self.registry)
        self.machine.prepare(model.encoder, compiled=False)
        self.machine.prepare(model.decoder, compiled=False)
        return model.to(self.machine.device)

    @cached_property
    def denoiser(self) -> LoadedDenoiser:
        """The run's denoiser, with its averaged weights unless the recipe samples without them."""
        from gaekit.store.models import load_denoiser

        ema = self.recipe.sample is None or self.recipe.sample.ema
        return load_denoiser(self.view.artifact("diffusion"), self.registry, ema=ema)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in label order; () for unconditional."""
        return self.denoiser.spec.classes

    def label(self, wanted: str | int) -> int:
        """The label of a class given by its name or its index. Raises GaekitError naming the classes."""
        if wanted in self.classes:
            return self.classes.index(str(wanted))
        text = str(wanted)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
        raise GaekitError(
            f"class '{wanted}': this run knows {len(self.classes)} classes: {known or 'it is unconditional'}"
        )

    def sample(
        self,
        classes: str | int | Sequence[str | int] | None = None,
        count: int = 16,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        weak: str | Path | None = None,
        seed: int | None = None,
        on_step: OnStep | None = None,
    ) -> Pictures:
        """Make `count` new images in all, of the classes in turn; the same arguments give the same images, bit for bit.

        classes: names or indices (a text is a name first), all classes by default. What is not given is as in the
        recipe: steps of the sampler, scale of the guidance (1 is none), the interval of times [start, end) in which it
        acts (t = 0 is noise), seed. weak: a run or an artifact to be guided away from, in place of the null class
        (autoguidance). on_step: called as (done, in all) after each step of the sampler; what it raises ends the
        sampling.

        Raises GaekitError for what the run cannot do, ArtifactError before its denoiser is trained.
        """
        from gaekit.runs.sampling import sample

        return sample(
            self, classes, count, steps=steps, guidance=guidance, interval=interval, weak=weak, seed=seed,
            on_step=on_step,
        )  # fmt: skip

    def encode(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Latents (N, D, H, W) of images, float32 on the CPU: the means, as `decode` takes them.

        One image or several: PIL images, paths, arrays or tensors of any size, cut to a square and resized as in
        training. Values are uint8 from 0 to 255 or floats in [-1, 1], channels first or last. Raises DataError for what
        is no picture, BadImage for a file that cannot be decoded.
        """
        from gaekit.runs.coding import encode

        return encode(self, images)

    def decode(self, latents: Tensor) -> Pictures:
        """Pictures of latents (N, D, H, W) or (D, H, W), such as `encode` gives, changed as one likes: with noise on
        them, say. Raises GaekitError for another shape."""
        from gaekit.runs.coding import decode

        return decode(self, latents)

    def reconstruct(self, images: Picture | Sequence[Picture]) -> Pictures:
        """Images through the autoencoder and back, by the latents' means; what it takes is what `encode` takes."""
        from gaekit.runs.coding import reconstruct

        return reconstruct(self, images)

    def interpolate(
        self, a: Picture | Tensor, b: Picture | Tensor, steps: int = 8, *, along: Literal["arc", "line"] = "arc"
    ) -> Pictures:
        """`steps` pictures from `a` to `b`, both included; each an image, or a latent (D, H, W) of this run.

        along: "arc" turns each position's vector of D channels from one direction to the other at an even pace (slerp,
        Shoemake 1985) while its length changes evenly, so that a regularizer that fixes lengths is obeyed; "line" mixes
        the latents as (1 - s) a + s b (lerp). Raises GaekitError for fewer than 2 steps.
        """
        from gaekit.runs.coding import interpolate

        return interpolate(self, a, b, steps, along)


def open_run(
    path: str | Path, registry: Registry | None = None, reporter: Reporter | None = None, device: str | None = None
) -> OpenRun:
    """Open a run's folder. Raises ArtifactError if it is none."""
    view = View(Path(path))
    _ = view.record
    return OpenRun(view, registry, reporter, device)
