"""Where a run computes: the device, the processes, how `runtime` has networks run there, and where it reports."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.utils._triton import has_triton

from gaekit.errors import GaekitError
from gaekit.nn.attention import AttentionProbe, set_attention
from gaekit.nn.regions import compile_regions, set_checkpointing
from gaekit.parallel import World
from gaekit.recipe.schema import Runtime
from gaekit.train.flops import FlopMeter
from gaekit.train.precision import resolve_precision
from gaekit.train.progress import Reporter


@dataclass
class Machine:
    """One process's part of where a run computes; `open_machine` makes one from a recipe's settings."""

    device: torch.device
    runtime: Runtime
    reporter: Reporter
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self._said: set[str] = set()
        self.flops: FlopMeter | None = None

    def count_flops(self) -> None:
        """Have `flops` count what the networks do that are prepared or watched from now on."""
        self.flops = FlopMeter(self._say_once)

    def watch(self, module: nn.Module, name: str = "") -> None:
        """Count the FLOP of a network that needs no preparing, where FLOP are counted."""
        if self.flops is not None:
            self.flops.watch(module, name)

    def prepare(self, module: nn.Module, precision: str = "float32", *, compiled: bool = True) -> None:
        """Move a network to the device, choose its attention, recompute and compile its blocks if the recipe says so;
        what it computes from now on is counted where FLOP are.

        `precision` is the section's: the attention is probed in the type that it will run in. `compiled=False` compiles
        nothing. What trains and has no blocks to recompute is named, and an attention that is not the one expected.
        """
        module.to(self.device)
        dtype = torch.bfloat16 if resolve_precision(precision, self.device) == "bf16" else torch.float32
        choice = set_attention(module, self.runtime.attention, self.device, self._probe, dtype)
        if choice and choice.unexpected:
            self._say_once(str(choice))
        trains = any(p.requires_grad for p in module.parameters())
        if self.runtime.checkpointing and trains and not set_checkpointing(module):
            name = type(module).__name__
            self._say_once(f"runtime.checkpointing: {name} has no blocks to recompute, it keeps its activations")
        if compiled:
            self._compile(module)
        self.watch(module)

    def _compile(self, module: nn.Module) -> None:
        if self.runtime.compile is True:
            compile_regions(module)
        elif self.runtime.compile == "auto" and self.device.type == "cuda":
            if has_triton():
                compile_regions(module, whole=False)
            else:
                self._say_once("runtime.compile: nothing is compiled, torch finds no Triton that works on this card")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.reporter.say(f"  {line}")

    @cached_property
    def name(self) -> str:
        """What the device is called: the card, or the CPU's model where Linux tells it."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu_name()

    @cached_property
    def _probe(self) -> AttentionProbe:
        """Remembers which attention backends work at which sizes."""
        return AttentionProbe()


def open_machine(runtime: Runtime, reporter: Reporter, world: World | None = None) -> Machine:
    """The machine as `runtime` has it used; from here on torch computes with `runtime.threads` on the CPU.

    Raises GaekitError where the device is not there, or is not one for each process.
    """
    world = world or World()
    machine = Machine(device_of_rank(runtime.device, world), runtime, reporter, world)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    return machine


def choose_device(wanted: str) -> torch.device:
    """The device that runtime.device means. Raises GaekitError where it is not there."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise GaekitError(f"runtime.device: '{wanted}' is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GaekitError(f"runtime.device: '{wanted}', but torch sees no CUDA device; use auto or cpu")
    return device


def device_of_rank(wanted: str, world: World) -> torch.device:
    """The device of this process: over several, the CUDA device of its number on this machine."""
    device = choose_device(wanted)
    if world.size == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise GaekitError(f"runtime.device: '{wanted}' is one device for {world.size} processes; use auto or cuda")
    if world.local_rank >= torch.cuda.device_count():
        raise GaekitError(
            f"process {world.local_rank} of this machine has no CUDA device, there are {torch.cuda.device_count()}; "
            "start as many processes as there are devices"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


def cpu_name() -> str:
    """The model of this machine's CPU, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, models), platform.machine())
