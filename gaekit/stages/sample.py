"""Stage 5: generate images, in fixed chunks of consecutive indices, into `samples.npz` and a grid to look at."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaekit.data.images import to_float
from gaekit.recipe.schema import Guidance, Recipe, Sample
from gaekit.stages import diffusion
from gaekit.stages.generate import MOST_CLASSES_SHOWN, WEAK, WEAK_KEY, ImageGenerator, labels_for
from gaekit.stages.job import Job
from gaekit.stages.stage import External, Stage
from gaekit.store.files import atomic, read_json, sha256_file, write_json
from gaekit.store.models import load_autoencoder, load_denoiser
from gaekit.store.npz import NpzWriter
from gaekit.train.track import grid_of

if TYPE_CHECKING:
    import PIL.Image

ROWS_SHOWN = 8


def parts(recipe: Recipe) -> dict[str, Any]:
    """The fields of the recipe that decide the result; of a weak denoiser its content does, not where it lies."""
    assert recipe.sample is not None
    guidance = recipe.sample.guidance.model_copy(update={"weak": None})
    return {"seed": recipe.seed, "sample": recipe.sample.model_copy(update={"guidance": guidance})}


def external(recipe: Recipe) -> dict[str, External]:
    """The weak denoiser that guides, where the section names one."""
    weak = recipe.sample.guidance.weak if recipe.sample else None
    return {} if weak is None else {WEAK: External(diffusion.STAGE, Path(weak.path), WEAK_KEY)}


def series(section: Sample) -> dict[str, Guidance]:
    """The series of images to make and the guidance of each."""
    found = {"samples": section.guidance}
    if section.also_unguided:
        found["samples_unguided"] = Guidance()
    return found


def run(job: Job) -> dict[str, Any]:
    """Generate every series; chunks that are there already are kept. Returns what DONE records."""
    section = job.recipe.sample
    assert section is not None
    section = job.settled(section)
    record: dict[str, Any] = {"count": section.count, "precision": section.precision, "evaluations_per_image": {}}
    grids: dict[str, Tensor] = {}
    for name, guidance in series(section).items():
        denoiser = load_denoiser(job.inputs["diffusion"], job.registry, ema=section.ema)
        autoencoder = load_autoencoder(job.inputs["autoencoder"], job.registry)
        generator = ImageGenerator(
            job.machine, job.registry, section, job.recipe.seed, autoencoder, denoiser, guidance, job.inputs.get(WEAK)
        )
        labels = labels_for(section.count, len(denoiser.spec.classes), section.labels, job.recipe.seed)
        _chunks(job, name, generator, labels)
        job.world.barrier()
        if job.world.is_rank0:
            evaluations, grids[name] = _collect(job, name, section, labels, denoiser.spec.classes)
            record["evaluations_per_image"][name] = evaluations
            write_json(job.room.out / f"{name}.json", protocol(job, section, guidance, denoiser.spec.classes))
    if job.world.is_rank0:
        job.show({}, grids)
        shutil.rmtree(job.room.out / "chunks")
    return record


def protocol(job: Job, section: Sample, guidance: Guidance, classes: tuple[str, ...]) -> dict[str, Any]:
    """Every setting that decides the images of a series."""
    shown = section.model_dump(mode="json", exclude={"also_unguided"})
    guided = guidance.model_dump(mode="json", by_alias=True)
    if guidance.weak is not None:
        guided["weak"]["sha256"] = sha256_file(job.inputs[WEAK])
    shown |= {"guidance": guided, "seed": job.recipe.seed, "classes": len(classes)}
    return shown | {"image_size": job.recipe.image.size}


def _chunk_file(out: Path, name: str, first: int) -> Path:
    return out / "chunks" / f"{name}-{first:08d}.safetensors"


def _chunks(job: Job, name: str, generator: ImageGenerator, labels: list[int]) -> None:
    """Make this rank's chunks that are not there. Each also holds how often an image of it went through a denoiser."""
    section = generator.section
    size = section.batch
    starts = range(0, section.count, size)[job.world.rank :: job.world.size]
    with job.reporter.bar(name.replace("_", " "), len(starts)) as bar:
        for first in starts:
            file = _chunk_file(job.room.out, name, first)
            if not file.exists():
                before = generator.evaluations
                images = generator.chunk(first, labels, on_step=lambda step, steps: bar.within(step / steps))
                evaluations = torch.tensor((generator.evaluations - before) / size, dtype=torch.float64)
                with atomic(file) as part:
                    save_file({"images": images, "evaluations": evaluations}, part)
            bar.advance(per=min(size, section.count - first))


def _collect(job: Job, name: str, section: Sample, labels: list[int], classes: tuple[str, ...]) -> tuple[float, Tensor]:
    """Chunks -> `<name>.npz` as ADM's evaluator reads it (arr_0 images, arr_1 labels), and `<name>.png`; -> evaluations
    an image, and the grid."""
    out = job.room.out
    files = [_chunk_file(out, name, first) for first in range(0, section.count, section.batch)]
    side = load_file(files[0])["images"].shape[1]
    with NpzWriter(out / f"{name}.npz") as npz:
        npz.add(
            "arr_0", np.dtype(np.uint8), (section.count, side, side, 3), (load_file(f)["images"].numpy() for f in files)
        )
        if classes:
            npz.add("arr_1", np.dtype(np.int64), (section.count,), [np.asarray(labels, dtype=np.int64)])
    images, columns = _shown(files, labels, len(classes))
    save_grid(out / f"{name}.png", images, columns)
    evaluations = sum(float(load_file(file)["evaluations"]) for file in files) / len(files)
    return evaluations, grid_of(to_float(images), columns)


def _shown(files: list[Path], labels: list[int], classes: int) -> tuple[Tensor, int]:
    """(uint8 images, columns): a column a class, or a square."""
    shown = min(classes, MOST_CLASSES_SHOWN)
    columns = shown or ROWS_SHOWN
    wanted: list[list[int]] = [[] for _ in range(columns)]
    for index, label in enumerate(labels):
        column = label if classes else index % columns
        if column < columns and len(wanted[column]) < ROWS_SHOWN:
            wanted[column].append(index)
    rows = max(1, min(len(column) for column in wanted))
    order = [column[row] for row in range(rows) for column in wanted if row < len(column)]
    images: dict[int, Tensor] = {}
    start = 0
    for file in files:
        chunk = load_file(file)["images"]
        images.update({i: chunk[i - start].clone() for i in order if start <= i < start + len(chunk)})
        start += len(chunk)
    return torch.stack([images[i] for i in order]), columns


def save_grid(path: Path, images_BRR3: Tensor, columns: int) -> None:
    """Write uint8 images as one PNG, row by row."""
    with atomic(path) as part:
        grid_image(images_BRR3, columns).save(part, format="PNG")


def grid_image(images_BRR3: Tensor, columns: int) -> PIL.Image.Image:
    """uint8 images as one, row by row."""
    from PIL import Image

    canvas = grid_of(to_float(images_BRR3), columns)
    return Image.fromarray((canvas * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def read_protocol(samples: Path) -> dict[str, Any]:
    """The settings that made a `samples.npz`, from the .json beside it."""
    return dict(read_json(samples.with_suffix(".json")))


STAGE = Stage(
    name="sample",
    revision=3,
    artifact="samples.npz",
    needs=("diffusion", "autoencoder"),
    parts=parts,
    run=run,
    external=external,
)
