"""What the families share at run time, so that each can be installed alone: `_shared.py` in a family is a link to this
file, and a copy of it in the family's wheel.

TorchScript reads the checks, hence their plain style.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

STEPS_PER_CARRY = 16


def refuse_namesake(name: str) -> None:
    """Raises ImportError if upstream's distribution, of the same import name, is installed: the two would share a folder."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"{name} {version} and rnnkit-{name} are both installed, in the same folder: run "
        f"`pip uninstall -y {name} rnnkit-{name}`, then install rnnkit-{name} again"
    )


def state_dtype(x: Tensor) -> torch.dtype:
    """The dtype of states for inputs like x: float32, or float64 where x is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_floating(name: str, x: Tensor) -> None:
    """Raises TypeError unless x is float64, float32, float16 or bfloat16."""
    known = x.dtype == torch.float32 or x.dtype == torch.float64 or x.dtype == torch.float16
    if not (known or x.dtype == torch.bfloat16):
        raise TypeError(f"{name}: expected float64, float32, float16 or bfloat16, got {x.dtype}")


def check_alike(name: str, planes: list[Tensor]) -> None:
    """Raises unless all have the shape, device and dtype of the first."""
    x = planes[0]
    for plane in planes:
        check_tensor(name, plane)
        if plane.shape != x.shape:
            raise ValueError(f"{name}: expected equal shapes, got {list(x.shape)} and {list(plane.shape)}")
        if plane.device != x.device:
            raise ValueError(f"{name}: expected one device, got {x.device} and {plane.device}")
        if plane.dtype != x.dtype:
            raise TypeError(f"{name}: expected one dtype, got {x.dtype} and {plane.dtype}")


def autocast_enabled(device: torch.device) -> bool:
    """Whether autocast changes dtypes on this device; some, such as meta, know none."""
    if not torch.jit.is_scripting():
        if (
            not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled()
        ):  # the shortest way to nearly every answer
            return False
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which ops keep the dtypes of their inputs."""
    return torch.autocast(device.type, enabled=False) if autocast_enabled(device) else nullcontext()


def check_tensor(name: str, x: Tensor) -> None:
    """Raises TypeError unless x is a dense tensor."""
    if not torch.jit.is_scripting():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.layout != torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got one of layout {x.layout}")


def check_input(x: Tensor, module: torch.nn.Module, name: str = "x") -> None:
    """Raises if the module, which is given x first, has a weight of another device or dtype, unless autocast will change that."""
    weight = module._parameters.get("weight", module._parameters.get("bias"))  # none that a parametrisation would compute
    if weight is None:
        return  # whatever the module is: it has to know
    if x.device != weight.device:
        raise ValueError(f"{name}: expected device {weight.device}, got {x.device}")
    if not x.is_floating_point() or (x.dtype != weight.dtype and not autocast_enabled(x.device)):
        raise TypeError(f"{name}: expected {weight.dtype}, got {x.dtype}")


def check_state(h: Tensor, x: Tensor, shape: list[int], name: str = "h") -> Tensor:
    """h in the dtype of states, expanded to `shape`."""
    check_tensor(name, h)
    wanted = state_dtype(x)
    if h.dtype == wanted and h.shape == torch.Size(shape) and h.device == x.device:
        return h
    if h.dtype != x.dtype and h.dtype != wanted:
        raise TypeError(f"{name}: expected {x.dtype} or {wanted}, got {h.dtype}")
    if h.device != x.device:
        raise ValueError(f"{name}: expected device {x.device}, got {h.device}")
    fits = h.dim() <= len(shape)
    if fits:
        for i in range(h.dim()):
            size = h.shape[h.dim() - 1 - i]
            fits = fits and (size == 1 or size == shape[len(shape) - 1 - i])
    if not fits:
        raise ValueError(f"{name}: expected a shape that expands to {shape}, got {list(h.shape)}")
    return h.to(wanted).expand(shape)


def check_integers(name: str, x: Tensor, shape: list[int], like: Tensor) -> Tensor:
    """x, of integers, as contiguous int64 on the device of `like`; it may come from the CPU."""
    check_tensor(name, x)
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {x.dtype}")
    if list(x.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {list(x.shape)}")
    if x.device != like.device and x.device.type != "cpu":
        raise ValueError(f"{name}: expected device cpu or {like.device}, got {x.device}")
    return x.to(device=like.device, dtype=torch.int64).contiguous()


def check_lengths(lengths: Tensor, x: Tensor, batch: int, steps: int) -> Tensor:
    """lengths as int64 on x's device. They may come from the CPU, or as a list; values are checked where reading them is free."""
    if not torch.jit.is_scripting():
        if isinstance(lengths, (list, tuple)):
            lengths = torch.tensor(lengths)
    checked = check_integers("lengths", lengths, [batch], x)
    if not torch.jit.is_scripting():
        if is_free_to_read(lengths) and batch > 0:
            low, high = int(lengths.min()), int(lengths.max())
            if low < 0 or high > steps:
                raise ValueError(f"lengths: expected values within 0..{steps} (T), got {low}..{high}")
    return checked


def wants_gradients(planes: list[Tensor], h0: Optional[Tensor]) -> bool:
    """Whether a backward pass may follow, so that forward has to keep what it needs."""
    wants = False
    if not torch.jit.is_scripting():
        if torch.jit.is_tracing():  # a trace has to serve both
            return True
    if torch.is_grad_enabled():
        wants = h0 is not None and h0.requires_grad
        for plane in planes:
            wants = wants or plane.requires_grad
    return wants


def dropout_mask(like: Tensor, p: float, shape: list[int]) -> Tensor:
    """A mask that is 0 with probability p and else 1 / (1 - p), in the dtype of states."""
    keep = torch.full(shape, 1.0 - p, dtype=state_dtype(like), device=like.device)
    return torch.bernoulli(keep) / (1.0 - p)


def pack_like(like: PackedSequence, out: Tensor, lengths: Tensor, batch_first: bool) -> PackedSequence:
    """out packed as `like` is, whose lengths these are: in the same order, also where lengths are equal."""
    if like.sorted_indices is None:
        return pack_padded_sequence(out, lengths, batch_first)
    ordered = out.index_select(0 if batch_first else 1, like.sorted_indices)
    packed = pack_padded_sequence(ordered, lengths.sort(descending=True)[0], batch_first)
    return PackedSequence(packed.data, packed.batch_sizes, like.sorted_indices, like.unsorted_indices)


def needs_plain_torch() -> bool:
    """Whether derivatives are taken that ops do not have: by a transform of torch.func, or in forward mode. Plain PyTorch has them."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or bool(torch._C._are_functorch_transforms_active())


def is_free_to_read(x: Tensor) -> bool:
    """Whether looking at x's values is free, and possible: no graph is being made, and it is a plain tensor on the CPU."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or needs_plain_torch():
        return False
    return x.device.type == "cpu" and type(x) in (Tensor, Parameter)  # a FakeTensor, for one, has no values


def run_reference(
    reference: Callable[..., tuple[Tensor, Tensor]],
    channels: int,
    initial: float,
    inputs: list[Tensor],
    h0: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    """What the op `scan` would return (see `register_scan`), by the reference."""
    x = inputs[0]
    if h0 is None:
        h0 = x.new_full((x.shape[0], channels), initial, dtype=state_dtype(x))
    out, h_last = reference(inputs, h0, *rest)
    return out.to(x.dtype), h_last


def channels_of(planes: list[Tensor], count: int) -> int:
    """D of `count` planes, whether they come packed in one tensor (B, T, count * D) or not."""
    return planes[0].shape[2] // count if len(planes) == 1 else planes[0].shape[2]


def split_planes(planes: list[Tensor], count: int) -> list[Tensor]:
    """`count` planes (B, T, D), whether they come packed or not."""
    return list(planes[0].chunk(count, dim=-1)) if len(planes) == 1 else planes


def empty_rows(like: Tensor, width: int) -> Tensor:
    """Uninitialised (B, T, width), laid out in memory like `like` (B, T, ...)."""
    batch, steps = like.shape[:2]
    if like.stride(0) >= like.stride(1):
        return like.new_empty(batch, steps, width)
    return like.new_empty(steps, batch, width).transpose(0, 1)


class _AllGather(torch.autograd.Function):
    """x of each rank, stacked; its gradient is the sum of what all ranks did with it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        found = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(found, x.contiguous(), group)
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad = grad.contiguous()
        torch.distributed.all_reduce(grad, group=ctx.group)
        return grad[torch.distributed.get_rank(ctx.group)], None


def split_scan(scan: Callable[[Tensor], tuple[Tensor, Tensor]], h0: Tensor, group: Any = None) -> tuple[Tensor, Tensor]:
    """A scan whose sequence is cut along time, with one piece on each rank of a process group, in the order of ranks.

    h_last = a h0 + b for each piece and channel: all ranks learn a and b of all pieces, and each then runs its own piece from the state
    that the pieces before it lead to. Every rank must call this, and go backward through it; gradients reach all pieces.

    Args:
        scan: runs this rank's piece from an initial state (B, D) and returns (out, h_last), such as
            `lambda h: mingru_scan(gate, hidden, h)`. It has to be linear in that state, and is called three times.
        h0: the state before the whole sequence, (B, D), the same on all ranks.
        group: of torch.distributed; default: all ranks.

    Returns:
        out of this rank's piece, and the state after the whole sequence (B, D), on all ranks.
    """
    b = scan(torch.zeros_like(h0))[1]
    a = scan(torch.ones_like(h0))[1] - b
    state, mine = h0, h0
    pieces = _AllGather.apply(torch.stack([a, b]), group)  # type: ignore[no-untyped-call]
    for r, (decay, added) in enumerate(pieces):
        if r == torch.distributed.get_rank(group):
            mine = state
        state = decay * state + added
    return scan(mine)[0], state
