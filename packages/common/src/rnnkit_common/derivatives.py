"""Derivatives of the families' ops: `_derivatives.py` in a family is a link to this file, and a copy of it in its wheel.

torch.library.register_autograd does as much, but flattens lists of tensors as pytrees at each call, which costs more than a small
kernel, and rewrites its context while it runs, which two threads that differentiate one graph notice. Here an op's derivatives are
a torch.autograd.Function, which is called directly where torch runs eagerly, and stands at the op's Autograd key for all else: graphs
that torch.compile, torch.export and TorchScript make, and whoever calls torch.ops.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._modes import is_eager, is_unwatched
from ._tensors import empty_rows, state_dtype

_FEW = 65536  # elements: larger tensors are not for the direct way (kMostElements, direct.h)
_LIBRARIES: list[torch.library.Library] = []  # as long as they live, so do their registrations


def complete(op: Any) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Adds to an op's arguments the defaults of those that were not given: torch hands its Python kernels no more than it must."""
    defaults = tuple(argument.default_value for argument in op._schema.arguments)
    return lambda arguments: (*arguments, *defaults[len(arguments) :])


def register_shapes(name: str, shapes: Callable[..., Any]) -> None:
    """torch.library.register_fake, of a function that takes all arguments of the op."""
    namespace, short = name.split("::")
    with_defaults = complete(getattr(getattr(torch.ops, namespace), short).default)
    torch.library.register_fake(name)(lambda *arguments: shapes(*with_defaults(arguments)))
    if not torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA"):
        library = torch.library.Library(namespace, "IMPL")
        library.impl(short, _without_cuda(namespace), "CUDA")
        _LIBRARIES.append(library)


def _without_cuda(namespace: str) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        package = namespace.partition("_")[2]
        raise NotImplementedError(
            f"{package}: this installation has no CUDA kernels, because it found no nvcc, or RNNKIT_CUDA=0 was set, when it was "
            f"built; see the README. It takes tensors on the CPU."
        )

    return refuse


def differentiable(
    name: str, apply: Callable[..., Any], apply_eagerly: Callable[..., Any] | None = None, library: Any = None
) -> Callable[..., Any]:
    """Gives an op its derivatives, and returns the shortest way to call it.

    Args:
        name: of the op, with its namespace; it has kernels below autograd.
        apply: takes the op's arguments, records for backward, and returns what the op returns.
        apply_eagerly: does so where `is_eager()`. Default: `apply`.
        library: see `directly`.
    """
    straight = apply if apply_eagerly is None else apply_eagerly
    namespace, short = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short).default
    with_defaults, direct = complete(op), directly(library, short)

    def kernel(*given: Any) -> Any:
        arguments = with_defaults(given)
        if torch.is_grad_enabled() and _any_requires_grad(arguments):
            return apply(*arguments)
        if forward_ad._current_level >= 0 and _any_is_dual(arguments):
            raise NotImplementedError(f"{name} has no forward-mode derivative; the functions and modules around it do")
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    registrations = torch.library.Library(namespace, "IMPL")
    registrations.impl(short, kernel, "Autograd")
    _LIBRARIES.append(registrations)

    def call(*arguments: Any) -> Any:
        if not is_eager():
            return op(*arguments)  # which a graph, or a mode, has to see
        if torch.is_grad_enabled() and _any_requires_grad(arguments):
            return straight(*arguments)
        made = direct(*arguments) if is_unwatched() else None
        if made is not None:
            return made
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    return call


def directly(library: Any, short: str) -> Callable[..., Any]:
    """The op of this name without torch's dispatcher, which costs several times what a small kernel does; for where `is_unwatched()`.

    Args:
        library: a family's compiled library, or None.
        short: the op's name, without its namespace.

    Returns:
        What takes the op's arguments, all by position, and returns what it does, without derivatives; or None, where the call is
        one for the dispatcher: other devices, large tensors, subclasses, and whatever is wrong.
    """
    return _to_the_dispatcher if library is None else getattr(library, short)


def dense(grad: Tensor) -> Tensor:
    """A gradient as the direct way takes it: that of a sum is expanded."""
    return grad if grad.is_contiguous() or grad.numel() > _FEW else grad.contiguous()


def _to_the_dispatcher(*_: Any) -> None:
    return None


def without_derivatives(name: str, library: Any) -> Callable[..., Any]:
    """The shortest way to call an op that has no derivatives, where `is_eager()`; it takes all arguments, by position.

    Args:
        name: of the op, with its namespace.
        library: see `directly`.
    """
    namespace, short = name.split("::")
    op, direct = getattr(getattr(torch.ops, namespace), short).default, directly(library, short)

    def call(*arguments: Any) -> Any:
        made = direct(*arguments) if is_unwatched() else None
        return op(*arguments) if made is None else made

    return call


def straight_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without the words that torch.func wants to have in it, where `is_eager()`."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def with_backward(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    """`differentiable`, of what torch.library.register_autograd takes.

    Args:
        name: of the op, with its namespace; it has kernels below autograd.
        setup: (ctx, arguments, outputs) keeps in ctx what backward needs.
        backward: (ctx, a gradient for each output) -> one for each argument, or None.
    """
    namespace, short = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short).default

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = op(*arguments)
            setup(ctx, arguments, outputs)
            return outputs

    Op.backward = staticmethod(backward)  # type: ignore[method-assign]
    return differentiable(name, Op.apply, straight_apply(Op))


def one_by_one(name: str) -> None:
    """Teaches vmap an op that returns a list of tensors, for which torch has no fallback: it is called for each sample.

    Both vmaps: torch.func's, and the older one of torch.autograd.grad(is_grads_batched=True) and jacobian(vectorize=True).
    """
    namespace, short = name.split("::")
    op = getattr(getattr(torch.ops, namespace), short).default

    def sample(i: int, value: Any, dim: Any) -> Any:
        if isinstance(dim, (list, tuple)):
            return [sample(i, v, d) for v, d in zip(value, dim, strict=True)]
        return value if dim is None else value.select(dim, i)

    def each(info: Any, dims: Any, *arguments: Any) -> tuple[list[Tensor], list[int]]:
        samples_of_outputs = [op(*sample(i, arguments, dims)) for i in range(info.batch_size)]
        return [torch.stack(samples) for samples in zip(*samples_of_outputs, strict=True)], [0] * len(samples_of_outputs[0])

    def older(*arguments: Any) -> list[Tensor]:
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        is_batched = torch._C._functorch.is_legacy_batchedtensor
        dims = [0 if isinstance(t, Tensor) and is_batched(t) else None for t in arguments]
        plain = [
            t if dim is None else torch._remove_batch_dim(t, level, 1, 0) for t, dim in zip(arguments, dims, strict=True)
        ]
        size = next(len(t) for t, dim in zip(plain, dims, strict=True) if dim is not None)
        batches, _ = each(SimpleNamespace(batch_size=size), dims, *plain)
        return [torch._add_batch_dim(t, 0, level) for t in batches]

    library = torch.library.Library(namespace, "IMPL")
    library.impl(short, older, "Batched")
    torch.library.register_vmap(name, each, lib=library)
    _LIBRARIES.append(library)


def _any_is_dual(arguments: tuple[Any, ...]) -> bool:
    tensors = [t for t in torch.utils._pytree.tree_leaves(arguments) if isinstance(t, Tensor)]
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def _any_requires_grad(arguments: tuple[Any, ...]) -> bool:
    for argument in arguments:
        if isinstance(argument, Tensor):
            if argument.requires_grad:
                return True
        elif isinstance(argument, list) and any(isinstance(t, Tensor) and t.requires_grad for t in argument):
            return True
    return False


def register_scan(
    namespace: str,
    *,
    planes: Callable[..., int],
    reference: Callable[..., tuple[Tensor, Tensor]],
    initial: Callable[..., float] = lambda *_: 0.0,
    extras: int = 2,
    library: Any = None,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Teaches torch what C++ cannot say of the ops `scan` and `scan_backward` through the stable ABI: shapes and derivatives.

    scan(Tensor[] inputs, Tensor? h0, <extras>, <options>, str direction, bool save) -> (out, h_last, carries)
    scan_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, Tensor carries, Tensor? h0, <extras>, <options>,
        str direction) -> Tensor[] the gradients of the inputs and, at the end, of h0

    Args:
        namespace: under which the library was compiled.
        planes: how many there are, from the options. Inputs of three dimensions, (B, T, k * D), hold them; others are parameters.
        initial: state where h0 is None, from the options. Default: 0.
        reference: (inputs, h0, *extras, *options) -> (out, h_last), in operations that torch can differentiate: second and
            higher derivatives are exact but slow, because they compute the gradients with it.
        extras: number of optional tensors that have no gradient: lengths, reset, and the family's.
        library: see `directly`.

    Returns:
        The shortest way to call `scan`.
    """

    def channels(inputs: list[Tensor], *options: Any) -> int:
        return sum(t.shape[2] for t in inputs if t.dim() == 3) // planes(*options)

    def shapes_of_scan(x, h0, *rest):  # type: ignore[no-untyped-def]
        *options, save = rest[extras:]
        width = channels(x, *options)
        batch, steps = x[0].shape[:2]
        h_last = x[0].new_empty(batch, width, dtype=state_dtype(x[0]))
        return empty_rows(x[0], width), h_last, empty_carries(namespace, h_last, steps if save else 0)

    def shapes_of_backward(grad_out, grad_h_last, x, carries, h0, *rest):  # type: ignore[no-untyped-def]
        width = channels(x, *rest[extras:])
        grads = [empty_rows(x[0], t.shape[2]).to(t.dtype) if t.dim() == 3 else t.new_empty(t.shape) for t in x]
        return [*grads, x[0].new_empty(x[0].shape[0], width, dtype=state_dtype(x[0]))]

    register_shapes(f"{namespace}::scan", shapes_of_scan)
    register_shapes(f"{namespace}::scan_backward", shapes_of_backward)
    return register_derivatives(
        f"{namespace}::scan",
        kept=(2,),
        channels=channels,
        initial=initial,
        reference=reference,
        extras=extras,
        library=library,
    )


def empty_carries(namespace: str, h_last: Tensor, steps: int) -> Tensor:
    """For tracing: what a scan keeps for backward, of so many steps, flat."""
    batch, width = h_last.shape
    steps_per_carry = getattr(torch.ops, namespace).steps_per_carry(h_last.device.type)
    return h_last.new_empty(batch, (steps + steps_per_carry - 1) // steps_per_carry * width)


def register_derivatives(
    name: str,
    *,
    kept: tuple[int, ...],
    channels: Callable[..., int],
    initial: Callable[..., float],
    reference: Callable[..., tuple[Tensor, Tensor]],
    extras: int,
    library: Any = None,
) -> Callable[..., Any]:
    """First and higher derivatives of an op `name`, as `register_scan` has them; its backward is the op `<name>_backward`.

    <name>(Tensor[] inputs, Tensor? h0, <extras>, <options>, bool save) -> (out, h_last, ...)
    <name>_backward(Tensor grad_out, Tensor? grad_h_last, Tensor[] inputs, <kept>, Tensor? h0, <extras>, <options>) -> Tensor[]

    Args:
        name: of the op, with its namespace.
        kept: which of the op's outputs backward needs; those after the first two have no gradient.
        channels: the width of out, at most that of inputs[0].
        initial, reference, extras, library: see `register_scan`.

    Returns:
        The shortest way to call the op.
    """
    namespace, short = name.split("::")
    ops = getattr(torch.ops, namespace)
    op, op_backward = getattr(ops, short).default, getattr(ops, f"{short}_backward").default
    direct = directly(library, short)

    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rest: tuple[Any, ...], h0: Tensor | None, *x: Tensor) -> tuple[Tensor, ...]:
            if not rest[-1]:
                rest = (*rest[:-1], True)  # whoever calls it so that it is differentiated wants that, whatever `save` says
            outputs = direct(x, h0, *rest) if is_unwatched() else None
            if outputs is None:
                with torch._C._AutoDispatchBelowAutograd():
                    outputs = op(x, h0, *rest)
            ctx.options = rest[extras:-1]
            ctx.save_for_backward(*[outputs[i] for i in kept], h0, *rest[:extras], *x)
            ctx.mark_non_differentiable(*outputs[2:])
            ctx.set_materialize_grads(False)
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None, *_: None) -> tuple[Any, ...]:
            tensors = ctx.saved_tensors  # once: checkpointing hands them out once
            saved, (h0, *more) = tensors[: len(kept)], tensors[len(kept) :]
            x = more[extras:]
            if grad_out is None:
                grad_out = torch.zeros_like(x[0][..., : channels(x, *ctx.options)])
            if grad_h_last is not None:
                grad_h_last = grad_h_last.contiguous()
            arguments = (grad_h_last, x, *saved, h0, *more[:extras], *ctx.options)
            *grads, grad_h0 = backward(dense(grad_out), *arguments)
            return None, None if h0 is None else grad_h0, *grads

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, saved: tuple[Any, ...], grad_out: Tensor, grad_h_last: Tensor | None, h0: Tensor | None, *x: Tensor
        ) -> tuple[Tensor, ...]:
            outputs, more = saved[: len(kept)], saved[len(kept) :]
            with torch._C._AutoDispatchBelowAutograd():
                grads = op_backward(grad_out, grad_h_last, x, *outputs, h0, *more)
            ctx.options = more[extras:]
            ctx.save_for_backward(grad_out, grad_h_last, h0, *more[:extras], *x)
            return tuple(grads)

        @staticmethod
        def backward(ctx: Any, *against: Tensor) -> tuple[Any, ...]:
            grad_out, grad_h_last, h0, *more = ctx.saved_tensors
            again = torch.is_grad_enabled()
            given = (True, grad_h_last is not None, h0 is not None)
            h0 = torch.full_like(against[-1], initial(*ctx.options)) if h0 is None else h0
            grad_h_last = torch.zeros_like(against[-1]) if grad_h_last is None else grad_h_last
            with torch.enable_grad():
                # views, so that each is an input of its own, and needs a gradient whatever the tensor itself needs
                inputs = [
                    t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
                    for t in (grad_out, grad_h_last, h0, *more[extras:])
                ]
                grad_out, grad_h_last, h0, *x = inputs
                out, h_last = reference(x, h0, *more[:extras], *ctx.options)
                seeds = [grad_out.to(out.dtype), grad_h_last]
                first = torch.autograd.grad([out, h_last], [*x, h0], seeds, create_graph=True)
                second = torch.autograd.grad(first, inputs, against, create_graph=again, allow_unused=True)
            return None, *(d if exists else None for d, exists in zip(second, given, strict=False)), *second[3:]

    def apply_backward(grad_out: Tensor, grad_h_last: Tensor | None, x: list[Tensor], *saved: Any) -> list[Tensor]:
        h0 = saved[len(kept)]
        others = (*saved[: len(kept)], *saved[len(kept) + 1 :])
        return list(Backward.apply(others, grad_out, grad_h_last, h0, *x))  # type: ignore[no-untyped-call]

    def apply(x: list[Tensor], h0: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        return Forward.apply(rest, h0, *x)  # type: ignore[no-untyped-call]

    straight = straight_apply(Forward)
    one_by_one(f"{name}_backward")
    backward = differentiable(f"{name}_backward", apply_backward, library=library)
    return differentiable(name, apply, lambda x, h0, *rest: straight(rest, h0, *x), library)
