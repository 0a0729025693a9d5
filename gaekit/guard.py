"""What components promise, held once: the first answer of each is looked at, and from then on nothing is.

`guard` watches a component that was just built. Networks are looked at by `ModuleComponent.__call__`, outside of what
`torch.compile` makes of them; of other methods the first call goes by a stand-in that takes itself away. A broken
promise is told as what was given and what was promised: every other way of noticing (a loss that broadcasts, a label
that is the null class) is later and says less.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaekit.api import Component, Draws, Encoded, ImageSource, Interval, Latent, Loss, ModuleComponent, Prediction
from gaekit.errors import GaekitError, PluginError

log = logging.getLogger(__name__)
Check = Callable[..., None]
"""(component, its answer, what it was called with): raises BrokenPromise."""
FORWARD = "forward"
SHA256_DIGITS = 64
CLASSES_NAMED = 5


class BrokenPromise(AssertionError):
    """What a component gave, and what its kind promises."""


def expect(kept: bool, promise: str, gave: object = None) -> None:
    """Raise BrokenPromise with the `promise` that was not `kept`, and what was given in its place."""
    if not kept:
        raise BrokenPromise(f"promised: {promise}" + ("" if gave is None else f"; gave: {gave}"))


def check_tensor(
    value: Any, shape: tuple[int, ...], what: str, *, like: Tensor | None = None, finite: bool = True
) -> None:
    """A finite float32 tensor of this shape; made from `like`, on its device, in its type or in that of autocast."""
    expect(isinstance(value, Tensor), f"{what} is a tensor", type(value).__name__)
    if tuple(value.shape) != shape:
        raise BrokenPromise(f"{what} has shape {tuple(value.shape)}, promised {shape}")
    allowed = _allowed_types(value if like is None else like, like)
    if value.dtype not in allowed:
        raise BrokenPromise(f"{what} is {_short(value.dtype)}, promised {' or '.join(map(_short, allowed))}")
    if like is not None and value.device != like.device:
        raise BrokenPromise(f"{what} is on {value.device}, promised on {like.device}, where the input is")
    if finite and _is_known(value) and not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise BrokenPromise(f"{what} has {count} numbers of {value.numel()} that are not finite, promised none")


def _allowed_types(place: Tensor, given: Tensor | None) -> list[torch.dtype]:
    """float32, the type of the input, and under autocast its type."""
    allowed = [torch.float32] if given is None else [torch.float32, given.dtype]
    device = place.device.type
    if given is not None and device != "meta" and torch.is_autocast_enabled(device):
        allowed.append(torch.get_autocast_dtype(device))
    return list(dict.fromkeys(allowed))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_known(value: Tensor) -> bool:
    """Whether it has numbers: tensors that are only traced, and those on the meta device, have none."""
    return type(value) in (Tensor, torch.nn.Parameter) and value.device.type != "meta"


def _finite(*values: Tensor) -> bool:
    return all(_is_known(v) and bool(torch.isfinite(v).all()) for v in values)


def check_teacher(teacher: Any, feature: Any, image: Tensor) -> None:
    """feature_BFHW on the grid, float32 also under autocast."""
    shape = (len(image), teacher.feature_dim, teacher.grid, teacher.grid)
    check_tensor(feature, shape, "a teacher's feature", finite=_finite(image))


def check_encoder(encoder: Any, out: Any, image: Tensor) -> None:
    """(hidden_BEHW, moments_BMHW)."""
    pair = isinstance(out, tuple) and len(out) == 2
    expect(pair, "an encoder gives a tuple of two tensors, hidden and moments", type(out).__name__)
    grid = image.shape[-1] // encoder.stride
    check_tensor(out[0], (len(image), encoder.hidden_dim, grid, grid), "hidden", like=image, finite=False)
    check_tensor(out[1], (len(image), encoder.channels, grid, grid), "moments", like=image, finite=False)


def check_decoder(decoder: Any, image: Any, latent: Tensor) -> None:
    """image_B3RR."""
    height, width = (side * decoder.stride for side in latent.shape[-2:])
    check_tensor(image, (len(latent), 3, height, width), "the image", like=latent, finite=False)


def check_latent(regularizer: Any, latent: Any, moments: Tensor) -> None:
    """A `Latent` whose std goes with its mean, and whose penalty is one number."""
    expect(isinstance(latent, Latent), "a regularizer gives a gaekit.api.Latent", type(latent).__name__)
    shape = (len(moments), regularizer.latent_dim, *moments.shape[-2:])
    check_tensor(latent.mean_BDHW, shape, "the latent's mean", like=moments, finite=False)
    if isinstance(latent.std_BDHW, Tensor):
        std = latent.std_BDHW
        fits = std.ndim <= len(shape) and all(a in (1, b) for a, b in zip(std.shape[::-1], shape[::-1], strict=False))
        expect(fits, f"the latent's std is of the mean's shape {shape}, or broadcasts to it", tuple(std.shape))
    else:
        expect(isinstance(latent.std_BDHW, float | int), "the latent's std is a number or a tensor", latent.std_BDHW)
    if latent.penalty is not None:
        check_losses(None, {"penalty": latent.penalty})


def check_losses(owner: Any, losses: Any, *given: Any, **keywords: Any) -> None:
    """Named scalars."""
    expect(isinstance(losses, Mapping), "losses are a dict of names and gaekit.api.Loss", type(losses).__name__)
    for name, loss in losses.items():
        expect(isinstance(loss, Loss), f"the term '{name}' is a gaekit.api.Loss", type(loss).__name__)
        expect(isinstance(loss.value, Tensor), f"the value of '{name}' is a tensor", type(loss.value).__name__)
        expect(loss.value.ndim == 0, f"the value of '{name}' is a scalar, of shape ()", tuple(loss.value.shape))


def check_target(aligner: Any, target: Any, feature: Tensor) -> None:
    """Anything that is a tensor."""
    expect(isinstance(target, Tensor), "an aligner's target is a tensor", type(target).__name__)


def check_distance(perceptual: Any, distance: Any, image: Tensor, other: Tensor) -> None:
    """distance_B >= 0."""
    known = _finite(image, other)
    check_tensor(distance, (len(image),), "the distance", like=image, finite=known)
    expect(not known or bool((distance >= 0).all()), "a distance is not negative", distance.tolist() if known else None)


def check_noise(noise: Any, z: Any, latent: Latent, draws: Draws) -> None:
    """z_BDHW."""
    mean = latent.mean_BDHW
    check_tensor(z, tuple(mean.shape), "what the decoder sees", like=mean, finite=_finite(mean))


def check_times(times: Any, t: Any, draws: Draws) -> None:
    """t_B in [0, 1]. Draws once more, for the batch: nothing else draws from what times are made of."""
    batch = draws.uniform()
    check_tensor(t, tuple(batch.shape), "t", like=batch)
    if _is_known(t):
        expect(
            bool(((t >= 0) & (t <= 1)).all()),
            "t lies in [0, 1]",
            f"{float(t.detach().min()):g} to {float(t.detach().max()):g}",
        )


def check_prediction(denoiser: Any, out: Any, x: Tensor, t: Tensor, label: Tensor, taps: tuple[str, ...] = ()) -> None:
    """A `Prediction` of x's shape, with the variance that the denoiser has learned and the features asked for."""
    expect(isinstance(out, Prediction), "a denoiser gives a gaekit.api.Prediction", type(out).__name__)
    shape = tuple(x.shape)
    check_tensor(out.out_BDHW, shape, "the prediction", like=x, finite=False)
    has = out.variance_BDHW is not None
    learned = denoiser.learned_variance
    promise = f"a variance where `learned_variance` is set, which is {learned}"
    expect(has == learned, promise, "one" if has else "none")
    if out.variance_BDHW is not None:
        check_tensor(out.variance_BDHW, shape, "the variance", like=x, finite=False)
    given = ", ".join(out.features) or "none"
    expect(set(out.features) == set(taps), f"the hidden states asked for: {', '.join(taps) or 'none'}", given)


def check_sampled(sampler: Any, latent: Any, field: Any, noise: Tensor, **keywords: Any) -> None:
    """latent_BDHW, float32 also under autocast."""
    check_tensor(latent, tuple(noise.shape), "the latent", finite=False)
    expect(latent.device == noise.device, f"the latent is on {noise.device}, as the noise is", latent.device)


def check_numbers(metric: Any, numbers: Any) -> None:
    """{name: float}."""
    expect(isinstance(numbers, dict) and bool(numbers), "`compute` gives a dict of numbers by name", numbers)
    for name, value in numbers.items():
        expect(isinstance(name, str), "names of numbers are text", name)
        expect(isinstance(value, float | int), f"{name} is a float", type(value).__name__)


def check_intervals(metric: Any, intervals: Any) -> None:
    """{name: Interval}, from low to high."""
    expect(isinstance(intervals, dict), "`intervals` gives a dict by name", type(intervals).__name__)
    for name, found in intervals.items():
        expect(isinstance(found, Interval), f"{name} is an Interval", type(found).__name__)
        bounds = (found.low, found.high)
        expect(all(map(math.isfinite, bounds)) and found.low <= found.high, f"{name} goes from low to high", bounds)
        expect(isinstance(found.method, str) and bool(found.method), f"{name} says how it was made", found.method)


def check_per_image(metric: Any, values: Any) -> None:
    """{name: (N,)}."""
    expect(isinstance(values, dict), "`per_image` gives a dict by name", type(values).__name__)
    for name, rows in values.items():
        right = isinstance(rows, Tensor) and rows.ndim == 1
        expect(right, f"{name} has a number for each image, (N,)", getattr(rows, "shape", type(rows).__name__))


def check_extracted(metric: Any, rows: Any, image: Tensor) -> None:
    """A row for each image."""
    expect(isinstance(rows, Tensor), "`extract` gives a tensor", type(rows).__name__)
    right = rows.ndim > 0 and len(rows) == len(image)
    expect(right, f"`extract` gives a row for each of {len(image)} images", tuple(rows.shape))


def check_extracted_latent(metric: Any, rows: Any, seen: Encoded) -> None:
    """A row for each image."""
    expect(isinstance(rows, Tensor), "`extract_latent` gives a tensor", type(rows).__name__)
    right = rows.ndim > 0 and len(rows) == len(seen.latent_BDHW)
    expect(right, f"`extract_latent` gives a row for each of {len(seen.latent_BDHW)} images", tuple(rows.shape))


def check_kept(metric: Any, state: Any) -> None:
    """Tensors by name, or None."""
    right = state is None or (isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values()))
    expect(right, "what is kept of a reference is tensors by name, or None", type(state).__name__)


def check_protocol(metric: Any, protocol: Any) -> None:
    """JSON values."""
    expect(isinstance(protocol, dict) and bool(protocol), "a metric states its protocol", protocol)
    try:
        json.dumps(protocol, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BrokenPromise(f"promised: a protocol of JSON values; gave: what JSON cannot write ({error})") from None


@dataclass(frozen=True)
class ImagePromise:
    """What a split's images are: RGB, each with a label of [0, max(1, `classes`)). Goes to processes that decode.

    `owner` names the data set and its plugin; where that is not gaekit's, `foreign`, whatever it raises is told as its
    own: from another process no traceback comes that would tell.
    """

    owner: str
    classes: int
    foreign: bool

    def read(self, source: ImageSource, index: int) -> tuple[Any, int]:
        """source[index], looked at. Raises PluginError, and what the split itself raises for people."""
        try:
            item = source[index]
        except (GaekitError, OSError, MemoryError):
            raise
        except Exception as error:
            if not self.foreign:
                raise
            raise PluginError(f"{self.owner} failed at image {index}: {type(error).__name__}: {error}") from error
        with naming(self.owner):
            self.check(item, index)
        return item

    def check(self, item: Any, index: int) -> None:
        """What the split gave at `index`. Raises BrokenPromise."""
        expect(isinstance(item, tuple) and len(item) == 2, f"[{index}] is (image, label)", type(item).__name__)
        image, label = item
        mode = getattr(image, "mode", type(image).__name__)
        expect(mode == "RGB", f"[{index}] is an image of Pillow's, decoded, in RGB", mode)
        expect(isinstance(label, int | np.integer), f"the label of [{index}] is a whole number", label)
        _check_range(int(label), int(label), self.classes)


def _check_range(least: int, most: int, classes: int) -> None:
    """Labels are indices of classes: the first that is none is the null class, which nothing of the data may have."""
    known = max(1, classes)
    right = f"0 to {known - 1} for {classes} classes" if classes else "0 for a data set without classes"
    gave = f"{least}" if least == most else f"{least} to {most}"
    expect(least >= 0 and most < known, f"labels are {right}", gave)


def check_source(dataset: Any, source: Any) -> None:
    """A split of images whose labels, where they are known, are those of the classes; a class without any is told."""
    sized = hasattr(source, "__len__") and hasattr(source, "__getitem__") and callable(getattr(source, "key", None))
    expect(sized, "a split has __len__, __getitem__ and key", type(source).__name__)
    classes = dataset.classes
    expect(isinstance(classes, tuple | list), "`classes` is a tuple of names", type(classes).__name__)
    labels = known_labels(source)
    if labels is None or not len(source):
        return
    expect(len(labels) == len(source), f"`labels` has one for each of {len(source)} images", len(labels))
    _check_range(int(labels.min()), int(labels.max()), len(classes))


def known_labels(source: ImageSource) -> np.ndarray | None:
    """The label of every image, where the split knows them without decoding."""
    labels = getattr(source, "labels", None)
    return None if labels is None else np.asarray(labels, dtype=np.int64)


def check_training_source(dataset: Any, source: Any) -> None:
    """As `check_source`; of the training split, classes without images are told too."""
    check_source(dataset, source)
    labels = known_labels(source)
    if labels is not None and (line := without_images(np.bincount(labels).tolist(), dataset.classes)):
        log.warning("%s", line)


def without_images(counts: list[int], classes: tuple[str, ...]) -> str:
    """A line about the classes of which there is no training image; empty where there are none."""
    absent = [name for label, name in enumerate(classes) if label >= len(counts) or not counts[label]]
    if not absent:
        return ""
    named = ", ".join(absent[:CLASSES_NAMED]) + (", ..." if len(absent) > CLASSES_NAMED else "")
    return f"{len(absent)} of {len(classes)} classes have no training image: {named}; samples of them will mean nothing"


def check_digest(dataset: Any, digest: Any) -> None:
    """A sha256 in hex."""
    right = isinstance(digest, str) and len(digest) == SHA256_DIGITS
    expect(right, f"`digest` is a sha256, {SHA256_DIGITS} hex digits", digest)


PROMISES: dict[str, dict[str, Check]] = {
    "teacher": {FORWARD: check_teacher},
    "encoder": {FORWARD: check_encoder},
    "decoder": {FORWARD: check_decoder},
    "regularizer": {FORWARD: check_latent},
    "perceptual": {FORWARD: check_distance},
    "denoiser": {FORWARD: check_prediction},
    "aligner": {"fit_losses": check_losses, "target": check_target, "losses": check_losses},
    "noise": {"perturb": check_noise},
    "times": {"times": check_times},
    "sampler": {"sample": check_sampled},
    "metric": {
        "extract": check_extracted,
        "extract_latent": check_extracted_latent,
        "reference_state": check_kept,
        "reconstruction_state": check_kept,
        "compute": check_numbers,
        "intervals": check_intervals,
        "per_image": check_per_image,
        "protocol": check_protocol,
    },
    "dataset": {"train": check_training_source, "validation": check_source, "digest": check_digest},
    "tracker": {},
}
"""What is looked at of each kind, by method."""
NUMBERS = {"teacher": "feature_dim", "encoder": "hidden_dim"}
"""Which whole number a component of this kind tells of itself once it is built."""


@contextmanager
def naming(owner: str) -> Iterator[None]:
    """Tell a promise that is broken inside as a PluginError of `owner`."""
    try:
        yield
    except BrokenPromise as broken:
        raise PluginError(f"{owner} does not keep the contract of its kind: {broken}") from broken


def guard(component: Component, owner: str) -> None:
    """Look at the component's first answers; `owner` names it and its plugin in the PluginError of a broken promise."""
    with naming(owner):
        if name := NUMBERS.get(component.kind):
            value = getattr(component, name, None)
            expect(isinstance(value, int), f"`{name}` is a whole number once it is built", value)
    for name, check in PROMISES[component.kind].items():
        if name == FORWARD and isinstance(component, ModuleComponent):
            component.first_call = partial(_look, owner, check)
        else:
            setattr(component, name, partial(_first_call, component, name, owner, check))


def _look(owner: str, check: Check, component: Component, out: Any, given: Any, keywords: Any) -> None:
    with naming(owner):
        check(component, out, *given, **keywords)


def _first_call(component: Component, name: str, owner: str, check: Check, *given: Any, **keywords: Any) -> Any:
    # A partial of a plain function is copied with its component by `copy.deepcopy`, as metrics are.
    delattr(component, name)  # from here on the class's own
    out = getattr(component, name)(*given, **keywords)
    _look(owner, check, component, out, given, keywords)
    return out
