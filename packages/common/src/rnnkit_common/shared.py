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
        if not torch.compiler.is_compiling() and lengths.device.type == "cpu" and batch > 0:
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


def under_functorch() -> bool:
    """Whether a transform of torch.func is active: those cannot see into an op, but into plain PyTorch they can."""
    return not torch.compiler.is_compiling() and bool(torch._C._are_functorch_transforms_active())


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


def register_scan(
    namespace: str,
    *,
    channels: Callable[..., int],
    initial: Callable[..., float],
    reference: Callable[..., tuple[Tensor, Tensor]],
    extras: int = 2,
) -> None:
    """Teaches torch what C++ cannot say of the ops `scan` and `scan_backward` through the stable ABI: shapes and derivatives.

    scan(Tensor[] inputs, Tensor? h0, <extras>, <options>, bool save) -> (out, h_last, carries)
    scan_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, Tensor carries, Tensor? h0, <extras>, <options>)
        -> Tensor[] the gradients of the inputs and, at the end, of h0

    Args:
        namespace: under which the library was compiled.
        channels: D, from the inputs and the options. Of the inputs, those with planes are (B, T, ...).
        initial: state where h0 is None, from the options.
        reference: (inputs, h0, *extras, *options) -> (out, h_last), in operations that torch can differentiate: second and
            higher derivatives are exact but slow, because they compute the gradients with it.
        extras: number of optional tensors that have no gradient, such as lengths.
    """
    ops = getattr(torch.ops, namespace)

    @torch.library.register_fake(f"{namespace}::scan")
    def _(x, h0, *rest):  # type: ignore[no-untyped-def]
        *options, save = rest[extras:]
        width = channels(x, *options)
        batch, steps = x[0].shape[:2]
        h_last = x[0].new_empty(batch, width, dtype=state_dtype(x[0]))
        kept = (steps + STEPS_PER_CARRY - 1) // STEPS_PER_CARRY if save else 0
        return empty_rows(x[0], width), h_last, h_last.new_empty(batch, kept * width)

    @torch.library.register_fake(f"{namespace}::scan_backward")
    def _(grad_out, grad_h_last, x, carries, h0, *rest):  # type: ignore[no-untyped-def]
        width = channels(x, *rest[extras:])
        grads = [empty_rows(x[0], t.shape[2]).to(t.dtype) if t.dim() == 3 else t.new_empty(t.shape) for t in x]
        return [*grads, x[0].new_empty(x[0].shape[0], width, dtype=state_dtype(x[0]))]

    register_derivatives(
        f"{namespace}::scan", ops, kept=(2,), channels=channels, initial=initial, reference=reference, extras=extras
    )


def register_derivatives(
    name: str,
    ops: Any,
    *,
    kept: tuple[int, ...],
    channels: Callable[..., int],
    initial: Callable[..., float],
    reference: Callable[..., tuple[Tensor, Tensor]],
    extras: int,
) -> None:
    """First and higher derivatives of an op `name`, as `register_scan` has them; its backward is the op `<name>_backward`.

    <name>(Tensor[] inputs, Tensor? h0, <extras>, <options>, bool save) -> (out, h_last, ...)
    <name>_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, <kept>, Tensor? h0, <extras>, <options>) -> Tensor[]

    Args:
        name: of the op, with its namespace.
        ops: the namespace.
        kept: which of the op's outputs backward needs; those after the first two have no gradient.
        channels: the width of out, at most that of inputs[0].
        initial, reference, extras: see `register_scan`.
    """
    _, short_name = name.split("::")
    op_backward = getattr(ops, f"{short_name}_backward")

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, h0, *rest = inputs
        ctx.options = tuple(rest[extras:-1])
        ctx.save_for_backward(*[output[i] for i in kept], h0, *rest[:extras], *x)
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None, *_: None) -> tuple[Any, ...]:
        tensors = ctx.saved_tensors  # once: checkpointing hands them out once
        saved, (h0, *rest) = tensors[: len(kept)], tensors[len(kept) :]
        x = rest[extras:]
        if grad_out is None:
            grad_out = torch.zeros_like(x[0][..., : channels(x, *ctx.options)])
        if grad_h_last is not None:
            grad_h_last = grad_h_last.contiguous()
        *grads, grad_h0 = op_backward(grad_out, grad_h_last, x, *saved, h0, *rest[:extras], *ctx.options)
        return grads, None if h0 is None else grad_h0, *[None] * (extras + 1 + len(ctx.options))

    torch.library.register_autograd(name, backward, setup_context=setup)

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        grad_out, grad_h_last, x, *rest = inputs
        h0, *rest = rest[len(kept) :]
        ctx.options = tuple(rest[extras:])
        ctx.save_for_backward(grad_out, grad_h_last, h0, *rest[:extras], *x)

    def double_backward(ctx: Any, against: list[Tensor]) -> tuple[Any, ...]:
        grad_out, grad_h_last, h0, *rest = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()
        given = (True, grad_h_last is not None, h0 is not None)
        h0 = torch.full_like(against[-1], initial(*ctx.options)) if h0 is None else h0
        grad_h_last = torch.zeros_like(against[-1]) if grad_h_last is None else grad_h_last
        with torch.enable_grad():
            # views, so that each is an input of its own, and needs a gradient whatever the tensor itself needs
            inputs = [
                t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
                for t in (grad_out, grad_h_last, h0, *rest[extras:])
            ]
            grad_out, grad_h_last, h0, *x = inputs
            out, h_last = reference(x, h0, *rest[:extras], *ctx.options)
            seeds = [grad_out.to(out.dtype), grad_h_last]
            first = torch.autograd.grad([out, h_last], [*x, h0], seeds, create_graph=True)
            second = torch.autograd.grad(first, inputs, against, create_graph=differentiable, allow_unused=True)
        d_grad_out, d_grad_h_last, d_h0 = (d if exists else None for d, exists in zip(second, given, strict=False))
        untouched = [None] * len(kept)
        return d_grad_out, d_grad_h_last, list(second[3:]), *untouched, d_h0, *[None] * (extras + len(ctx.options))

    torch.library.register_autograd(f"{name}_backward", double_backward, setup_context=setup_backward)


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
