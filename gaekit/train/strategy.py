"""How a network trains over several ranks: DistributedDataParallel, or FSDP2's sharded parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gaekit.errors import ArtifactError
from gaekit.parallel import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Strategy = Literal["ddp", "fsdp"]


def parallelize(module: nn.Module, world: World, strategy: Strategy) -> nn.Module:
    """What to call in place of `module` so that gradients are averaged over ranks: the module itself for one process.

    ddp wraps it. fsdp shards its parameters in place, a block of a ModuleList at a time, then what is left; call it
    before an optimizer takes the parameters. A module whose parts are called one by one names them: `trained_parts()`.
    """
    if world.size == 1:
        return module
    if strategy == "ddp":
        return _replicated(module)
    _shard(module)
    return module


def _replicated(module: nn.Module) -> nn.Module:
    ddp = nn.parallel.DistributedDataParallel
    # Buffers are equal anyway: what updates them takes the mean over ranks itself. The option has had two names.
    names = inspect.signature(ddp.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return ddp(module, gradient_as_bucket_view=True, **{buffers: False})  # type: ignore[arg-type]


def _shard(module: nn.Module) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Named by where the parameters lie: torch's own choice is the machine's accelerator, used or not.
    mesh = init_device_mesh(next(module.parameters()).device.type, (dist.get_world_size(),))
    for part in getattr(module, "trained_parts", lambda: [module])():
        for block in _blocks(part):
            if any(p.requires_grad for p in block.parameters()):
                fully_shard(block, mesh=mesh)
        fully_shard(part, mesh=mesh)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of its outermost ModuleLists; those of lists within them belong to these."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _blocks(child)


def gradient_sync(net: nn.Module) -> Callable[[bool], None]:
    """A switch, to be set before a forward pass: whether the backward pass that follows averages gradients over ranks
    (True), or only gathers them up."""
    if isinstance(net, nn.parallel.DistributedDataParallel):
        return partial(setattr, net, "require_backward_grad_sync")
    if not any(is_sharded(p) for p in net.parameters()):
        return lambda final: None
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in net.modules() if isinstance(part, FSDPModule)]

    def switch(final: bool) -> None:
        for part in parts:
            part.set_requires_gradient_sync(final, recurse=False)

    return switch


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a rank holds a shard of it alone, by FSDP2."""
    from torch.distributed.tensor import DTensor  # half a second, which `gaekit check` need not wait for

    return isinstance(tensor, DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharded or not, without history."""
    return tensor.to_local().detach() if is_sharded(tensor) else tensor.detach()


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor as one process would hold it. For a sharded one every rank must call it."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def full_tensors(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Tensors by name as one process would hold them, {} where a rank does not `keep` them. Sharded ones go to the CPU
    one by one, so that no device holds all of them. Every rank must call it."""
    found = {}
    for name, tensor in tensors.items():
        value = full_tensor(tensor)
        if keep:
            found[name] = value.cpu() if is_sharded(tensor) else value
    return found


def distribute_like(value: Tensor, own: Tensor) -> Tensor:
    """A whole tensor on the device of `own`, sharded as `own` is."""
    value = value.to(own.device)
    if not is_sharded(own):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, own.device_mesh, own.placements)


@torch.no_grad()
def load_full_state_dict(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a module's own, one by one, sharded as its own are. Raises ArtifactError where the names
    are not the module's."""
    own = module.state_dict()
    if odd := sorted(own.keys() ^ set(tensors)):
        raise ArtifactError(f"weights of another network: {', '.join(odd[:5])} stand on one side alone")
    for name, tensor in own.items():
        tensor.copy_(distribute_like(tensors[name], tensor))


def gradient_norm(parameters: list[nn.Parameter], world: World) -> Tensor:
    """The norm of all gradients together, a scalar on their device; 0 where there is none. Every rank must call it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device)
    norm = nn.utils.get_total_norm([local_tensor(gradient) for gradient in gradients])
    return world.sum(norm.square()).sqrt() if is_sharded(gradients[0]) else norm


def all_finite(tensors: Sequence[Tensor], world: World) -> bool:
    """Whether every number of the tensors is finite, on all ranks, which must all call it. The host waits for it."""
    own = [part for tensor in tensors if (part := local_tensor(tensor.detach())).numel()]  # a rank may have no row
    largest = nn.utils.get_total_norm(own, math.inf) if own else torch.zeros((), device=tensors[0].device)
    return not bool(world.sum(largest.isfinite().logical_not().float()))
