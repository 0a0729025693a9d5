"""Checks of what is installed: packages, torch and the driver, attention, the libraries that teachers come from."""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gaekit.doctor.finding import Case, Finding
from gaekit.errors import GaekitError
from gaekit.nn.attention import NOT_INSTALLED, AttentionProbe
from gaekit.pipeline.provenance import PACKAGES, package_versions
from gaekit.stages.machine import choose_device

NVIDIA = Path("/proc/driver/nvidia/version")
INSTALL_TORCH = "install the torch for this machine: https://pytorch.org/get-started/locally"
NO_KERNELS = "load C++/CUDA extensions"
"""What xformers logs where its kernels were built for another torch."""
NOT_IMPORTED = ("ImportError", "ModuleNotFoundError", "OSError", "AttributeError")
TOKENS, HEADS, HEAD_DIM = 256, 4, 64


def packages(case: Case) -> Iterator[Finding]:
    """Whether Python and every package that gaekit needs is there, and recent enough."""
    python, wanted = platform.python_version(), metadata("gaekit")["Requires-Python"] or ""
    if not SpecifierSet(wanted).contains(python, prereleases=True):
        yield Finding("packages", f"Python {python}, gaekit needs {wanted}", f"use a Python {wanted}")
    wrong = False
    for line in requires("gaekit") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if fault := _fault(requirement):
            wrong = True
            yield Finding("packages", fault, f"pip install '{requirement.name}{requirement.specifier}'")
    if not wrong:
        versions = ", ".join(f"{name} {number}" for name, number in package_versions(PACKAGES).items())
        yield Finding("packages", f"Python {python}, {versions}")


def _fault(requirement: Requirement) -> str:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is not installed, gaekit needs {requirement.specifier}"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} is {found}, gaekit needs {requirement.specifier}"


def torch_and_driver(case: Case) -> Iterator[Finding]:
    """Whether torch was built for what this machine has, and the recipe's device is there."""
    yield _build(driver_version())
    wanted = case.recipe.runtime.device if case.recipe else "auto"
    try:
        device = choose_device(wanted)
    except GaekitError as error:
        yield Finding("device", str(error), "gaekit run --set runtime.device=auto, or mend what torch lacks")
    else:
        yield Finding("device", f"runtime.device '{wanted}' is {device}")


def driver_version() -> str | None:
    """The version of the NVIDIA driver that this machine runs, None without one."""
    try:
        text = NVIDIA.read_text()
    except OSError:
        return None
    found = re.search(r"\b(\d{3,}\.[\d.]+)\b", text)
    return found[1] if found else "of unknown version"


def _build(driver: str | None) -> Finding:
    check, hip = "torch", getattr(torch.version, "hip", None)
    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {hip}" if hip else "the CPU alone"
    what = f"torch {torch.__version__}, built for {kind}"
    available, said = _cuda_answers()
    if available:
        return _tried(what, driver)
    if driver is None:
        return Finding(check, f"{what}; no NVIDIA driver here, runs use the CPU")
    if torch.version.cuda is None:
        return Finding(check, f"{what}, on a machine with NVIDIA driver {driver}", INSTALL_TORCH)
    return Finding(
        check,
        f"{what}; NVIDIA driver {driver} is here, torch sees no device{said}",
        f"see that nvidia-smi shows the card and CUDA_VISIBLE_DEVICES does not hide it; update the driver to one for "
        f"CUDA {torch.version.cuda}, or {INSTALL_TORCH}",
    )


def _cuda_answers() -> tuple[bool, str]:
    """Whether torch sees a device, and what it says about that."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    said = " ".join(" ".join(str(warning.message).split()) for warning in caught)
    return available, f" ({said})" if said else ""


def _tried(what: str, driver: str | None) -> Finding:
    """A small sum on every device."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:
        for index in range(len(names)):
            torch.ones(2, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        return Finding("torch", f"{what}, cannot compute on {', '.join(names)}: {told}", INSTALL_TORCH)
    return Finding("torch", f"{what}, driver {driver or 'unknown'}; computes on {', '.join(names)}")


def attention(case: Case) -> Iterator[Finding]:
    """Whether xformers works where it would be used: a real forward and backward pass."""
    asked = case.recipe.runtime.attention if case.recipe else "auto"
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    failure = AttentionProbe().failure(device, dtype, HEADS, HEAD_DIM, TOKENS)
    if failure is None:
        yield Finding("attention", f"xformers computes forward and backward on {device}")
        return
    absent, beside = failure == NOT_INSTALLED, "" if cuda else ", nor used on a CPU"
    if asked == "xformers":
        fix = "pip install 'gaekit[xformers]'" if absent else "--set runtime.attention=auto"
        yield Finding("attention", f"the recipe asks for xformers, which cannot be used: {failure}", fix)
    elif absent:
        yield Finding("attention", f"torch's SDPA; xformers is not installed{beside}")
    elif cuda or NO_KERNELS in failure or failure.startswith(NOT_IMPORTED):
        yield _broken_xformers(failure, cuda)
    else:
        yield Finding("attention", "torch's SDPA; xformers is not used on a CPU")


def _broken_xformers(failure: str, cuda: bool) -> Finding:
    fix = f"install the xformers that was built for torch {torch.__version__}, or: pip uninstall xformers"
    where = "cannot be used on this card, runs take torch's SDPA" if cuda else "is not whole"
    name = " ".join(["xformers", *package_versions(["xformers"]).values()])
    return Finding("attention", f"{name} {where}: {failure}", fix)


def teachers(case: Case) -> Iterator[Finding]:
    """Whether timm and open_clip work, and with each other: a tiny CLIP whose image tower is timm's, untrained."""
    names = ("timm", "open_clip_torch")
    pair = " and ".join(f"{name} {number}" for name, number in package_versions(names).items())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _tiny_clip()
    except (Exception, SystemExit) as error:  # two libraries that import many
        told = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding("teachers", f"{pair or 'timm and open_clip'} do not work together: {told}", _upgrade(names))
    else:
        yield Finding("teachers", f"{pair} build a network together")


def _tiny_clip() -> None:
    import open_clip

    side = 160
    text = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    image = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    clip = open_clip.CLIP(embed_dim=8, vision_cfg={**image, "image_size": side}, text_cfg=text)
    with torch.no_grad():
        shape = tuple(clip.encode_image(torch.zeros(1, 3, side, side)).shape)
    if shape != (1, 8):
        raise RuntimeError(f"an image became {shape} in place of (1, 8)")


def _upgrade(names: tuple[str, ...]) -> str:
    wanted = [Requirement(line) for line in requires("gaekit") or ()]
    return "pip install --upgrade " + " ".join(f"'{r.name}{r.specifier}'" for r in wanted if r.name in names)


def plugins(case: Case) -> Iterator[Finding]:
    """Whether every plugin loaded."""
    for plugin in case.registry.broken:
        fix = f"pip install --upgrade {plugin.distribution}, or uninstall it, or GAEKIT_PLUGINS=-{plugin.name}"
        yield Finding("plugins", f"{plugin} is broken: {plugin.error}", fix)
    for kind, name in case.registry.clashes:
        fault, _, fix = str(case.registry.clash(kind, name)).partition("; ")
        yield Finding("plugins", fault, fix)
    if not case.registry.broken and not case.registry.clashes:
        count = sum(map(len, case.registry.classes.values()))
        yield Finding("plugins", f"{len(case.registry.plugins)} plugins with {count} components")
