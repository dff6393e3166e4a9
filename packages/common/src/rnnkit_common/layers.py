"""Shapes and derivatives of a layer in one op: a matrix product, and the scan of what it makes.

`_layers.py` in a family is a link to this file, and a copy of it in its wheel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ._decompositions import decompose
from ._derivatives import (
    dense,
    differentiable,
    directly,
    empty_carries,
    register_scan,
    register_shapes,
    straight_apply,
    without_derivatives,
)
from ._modes import is_unwatched, without_autocast
from ._tensors import empty_rows, run_reference, state_dtype


def register_family(
    namespace: str,
    *,
    planes: Callable[..., int],
    reference: Callable[..., tuple[Tensor, Tensor]],
    initial: Callable[..., float] = lambda *_: 0.0,
    extras: int = 2,
    library: Any = None,
) -> SimpleNamespace:
    """Teaches torch all ops of a family whose layers are a product and a scan: `scan`, `layer`, `step` and `stack_step`.

    Args:
        namespace, planes, reference, initial, extras, library: see `register_scan`.

    Returns:
        The shortest ways to call `scan`, `layer`, `step` and `stack_step`.
    """

    def shapes_of_step(x, h, *rest):  # type: ignore[no-untyped-def]
        width = x.shape[1] // planes(*rest[extras - 2 :])
        return x.new_empty(x.shape[0], width), x.new_empty(x.shape[0], width, dtype=state_dtype(x))

    def shapes_of_stack_step(x, weights, biases, h, *rest):  # type: ignore[no-untyped-def]
        width = weights[0].shape[0] // planes(*rest[extras - 2 :])
        return x.new_empty(x.shape[0], width), x.new_empty(len(weights), x.shape[0], 1, width, dtype=state_dtype(x))

    register_shapes(f"{namespace}::step", shapes_of_step)
    register_shapes(f"{namespace}::stack_step", shapes_of_stack_step)
    scan = register_scan(namespace, planes=planes, reference=reference, initial=initial, extras=extras, library=library)
    scan_decomposed = decompose_scan(namespace, planes=planes, reference=reference, initial=initial, extras=extras)

    def layer_decomposed(x, weight, bias, h0, *rest):  # type: ignore[no-untyped-def]
        *others, batch_first, save = rest
        made = torch.nn.functional.linear(x if batch_first else x.transpose(0, 1), weight, bias)
        out, h_last, carries = scan_decomposed([made], h0, *others, save)
        return out if batch_first else out.transpose(0, 1), h_last, carries, made

    def step_decomposed(x, h, *rest):  # type: ignore[no-untyped-def]
        out, h_next, _ = scan_decomposed([x[:, None]], h, None, None, *rest, "forward", False)
        return out[:, 0], h_next

    decompose(f"{namespace}::layer", layer_decomposed)
    decompose(f"{namespace}::step", step_decomposed)
    return SimpleNamespace(
        scan=scan,
        layer=register_layer(namespace, planes=planes, extras=extras, library=library),
        step=without_derivatives(f"{namespace}::step", library),
        stack_step=without_derivatives(f"{namespace}::stack_step", library),
    )


def decompose_scan(
    namespace: str,
    *,
    planes: Callable[..., int],
    reference: Callable[..., tuple[Tensor, Tensor]],
    initial: Callable[..., float] = lambda *_: 0.0,
    extras: int = 2,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """The op `scan` in torch's operations, which torch is told of.

    Args:
        namespace, planes, reference, initial, extras: see `register_scan`.

    Returns:
        What takes the op's arguments, and returns what it does; but for `carries`, of which there are none.
    """

    def scan(x: list[Tensor], h0: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        options = rest[extras:-1]
        width = sum(t.shape[2] for t in x if t.dim() == 3) // planes(*options)
        out, h_last = run_reference(reference, width, initial(*options), x, h0, *rest[:-1])
        return out, h_last, h_last.new_empty(0)

    decompose(f"{namespace}::scan", scan)
    return scan


def register_layer(
    namespace: str,
    *,
    planes: Callable[..., int],
    planes_dim: int = 0,
    parameters: int = 1,
    extras: int = 2,
    scan_backward: Callable[..., Any] | None = None,
    library: Any = None,
) -> Callable[..., tuple[Tensor, ...]]:
    """Shapes and derivatives of the ops `layer` and `layer_backward`: a matrix product makes planes, and a scan takes them.

    layer(Tensor x, Tensor weight, <parameters>, Tensor? h0, <extras>, <options>, bool batch_first, bool save)
        -> (out, h_last, carries, planes)
    layer_backward(Tensor grad_out, Tensor? grad_h_last, Tensor? x, Tensor? weight, <parameters>, Tensor planes, Tensor carries,
        <extras>, <options>, bool batch_first, <bools: which of the following somebody needs>)
        -> the gradients of x, weight, parameters and h0

    As nn.Linear, the graph keeps x for the gradient of the weight, and the weight for that of x. It keeps the planes as an
    output, through which second and higher derivatives go. x and out are (B, T, .), or (T, B, .) unless `batch_first`; planes
    are (B, T, .).

    Args:
        namespace: under which the library was compiled.
        planes: how many the product makes, from the options.
        planes_dim: the dimension of the weight that becomes planes.
        parameters: number of further tensors that have gradients, optional ones: the product's bias, or what `scan_backward` takes.
        extras: number of optional tensors that have no gradient, such as lengths.
        scan_backward: where the scan itself takes x and the parameters, which are then kept, too: (grad_out, grad_h_last, x,
            *parameters, planes, carries, h0, *extras, *options), all (B, T, .), -> the gradients of the planes, x, parameters and
            h0, by ops that torch can differentiate. Default: the op `scan_backward` of the planes alone; the parameter is the bias.
        library: see `directly`.

    Returns:
        The shortest way to call `layer` where `is_eager()`; it is differentiated if `save` is True. Its keyword `state_shape` is the
        shape that h_last shall have, () for the op's: a view of it would be one more node in the graph, and could not be detached
        in place. Who wants one knows that it `is_unwatched()`: a mode would see the tensor change its shape.
    """
    ops = getattr(torch.ops, namespace)
    op, op_backward = ops.layer.default, ops.layer_backward.default
    direct, direct_backward = directly(library, "layer"), directly(library, "layer_backward")
    scan_takes_inputs = scan_backward is not None

    def of_planes_alone(grad_out: Tensor, grad_h_last: Tensor | None, x: Any, bias: None, *rest: Any) -> Any:
        planes, *others = rest
        of_planes, of_h0 = ops.scan_backward(grad_out, grad_h_last, [planes], *others)
        return of_planes, None, None, of_h0

    scan_apart = scan_backward or of_planes_alone

    def shapes_of_layer(x, weight, *rest):  # type: ignore[no-untyped-def]
        *options, batch_first, save = rest[parameters + 1 + extras :]
        width, rows = weight.shape[planes_dim] // planes(*options), x if batch_first else x.transpose(0, 1)
        h_last = x.new_empty(rows.shape[0], width, dtype=state_dtype(x))
        carries = empty_carries(namespace, h_last, rows.shape[1] if save else 0)
        kept = empty_rows(rows, weight.shape[planes_dim]) if save else x.new_empty(0)
        out = empty_rows(rows, width)
        return out if batch_first else out.transpose(0, 1), h_last, carries, kept

    def shapes_of_backward(grad_out, grad_h_last, x, weight, *rest):  # type: ignore[no-untyped-def]
        given, planes = rest[:parameters], rest[parameters]
        batch_first, needs_x, needs_weight, *needs, needs_h0 = rest[-4 - parameters :]
        none = planes.new_empty(0)
        sizes = [planes.shape[2], x.shape[2]] if needs_weight else [0]
        grad_x = empty_rows(planes, weight.shape[1 - planes_dim]) if needs_x else none
        grads = []
        for parameter, needed in zip(given, needs, strict=True):
            size = planes.shape[2] if not scan_takes_inputs else 0 if parameter is None else parameter.shape[0]
            like = parameter if scan_takes_inputs and parameter is not None else planes
            grads.append(like.new_empty(size if needed else 0))
        return (
            grad_x if batch_first or not needs_x else grad_x.transpose(0, 1),
            planes.new_empty(sizes if planes_dim == 0 else sizes[::-1]),
            *grads,
            planes.new_empty(planes.shape[0], grad_out.shape[2], dtype=state_dtype(planes)) if needs_h0 else none,
        )

    register_shapes(f"{namespace}::layer", shapes_of_layer)
    register_shapes(f"{namespace}::layer_backward", shapes_of_backward)

    class Layer(torch.autograd.Function):
        """Records what the op has made."""

        @staticmethod
        def forward(
            ctx: Any,
            outputs: tuple[Tensor, ...],
            rest: tuple[Any, ...],
            x: Tensor,
            weight: Tensor,
            h0: Tensor | None,
            *given: Tensor | None,
        ) -> tuple[Tensor, ...]:
            out, h_last, carries, planes = outputs
            ctx.options = rest[extras:-1]
            ctx.width = out.shape[2]
            needs = ctx.needs_input_grad
            ctx.save_for_backward(
                x if scan_takes_inputs or needs[3] else None,
                weight if needs[2] else None,
                planes,
                carries,
                h0,
                *(given if scan_takes_inputs else (None,) * parameters),
                *rest[:extras],
            )
            ctx.set_materialize_grads(False)
            return out, h_last, planes

        @staticmethod
        def backward(
            ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None, grad_planes: Tensor | None
        ) -> tuple[Any, ...]:
            x, weight, planes, carries, h0, *more = ctx.saved_tensors
            given, more = more[:parameters], more[parameters:]
            _, _, needs_x, needs_weight, needs_h0, *needs = ctx.needs_input_grad
            batch_first = ctx.options[-1]
            if grad_h_last is not None:
                grad_h_last = grad_h_last.reshape(planes.shape[0], ctx.width).contiguous()
            if grad_out is None:
                batch, steps = planes.shape[:2]
                grad_out = planes.new_zeros((batch, steps, ctx.width) if batch_first else (steps, batch, ctx.width))
            again = torch.is_grad_enabled() or grad_planes is not None
            arguments = (grad_h_last, x, weight, *given, planes, carries, *more)
            options = (*ctx.options, needs_x, needs_weight, *needs, needs_h0)
            grads = None
            if is_unwatched() and not again:
                grads = direct_backward(dense(grad_out), *arguments, *options)
            if grads is None:
                with without_autocast(planes.device):  # which would take the products for its own
                    if again:
                        kept = (x, *given, planes, carries, h0, *more, *ctx.options)
                        wanted = [needs_x, needs_weight, *needs]
                        grads = _differentiable(grad_out, grad_h_last, grad_planes, weight, wanted, *kept)
                    else:
                        with torch._C._AutoDispatchBelowAutograd():
                            grads = op_backward(grad_out, *arguments, *options)
            of_x, of_weight, *of_given, of_h0 = grads
            return (
                None,
                None,
                of_x if needs_x else None,
                of_weight if needs_weight else None,
                of_h0 if needs_h0 else None,
                *[grad if needed else None for grad, needed in zip(of_given, needs, strict=True)],
            )

    def _differentiable(
        grad_out: Tensor,
        grad_h_last: Tensor | None,
        grad_planes: Tensor | None,
        weight: Tensor | None,
        needs: list[bool],
        x: Tensor | None,
        *kept: Any,
    ) -> tuple[Tensor | None, ...]:
        *rest, batch_first = kept
        if not batch_first:
            grad_out = grad_out.transpose(0, 1)
            x = None if x is None else x.transpose(0, 1)
        of_planes, of_x, *of_given, of_h0 = scan_apart(grad_out, grad_h_last, x, *rest)
        if grad_planes is not None:
            of_planes = of_planes + grad_planes
        if not scan_takes_inputs and needs[2]:
            of_given = [of_planes.sum((0, 1))]
        if weight is not None:
            product = of_planes @ (weight if planes_dim == 0 else weight.t())
            of_x = product if of_x is None else of_x + product
        of_weight = None
        if x is not None and needs[1]:
            of_rows, rows = of_planes.reshape(-1, of_planes.shape[2]), x.reshape(-1, x.shape[2])
            of_weight = of_rows.t() @ rows if planes_dim == 0 else rows.t() @ of_rows
        return of_x if batch_first or of_x is None else of_x.transpose(0, 1), of_weight, *of_given, of_h0

    def recorded(record: Callable[..., Any], outputs: tuple[Tensor, ...], arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
        x, weight, *rest = arguments
        given, h0, others = rest[:parameters], rest[parameters], rest[parameters + 1 :]
        out, h_last, planes = record(outputs, others, x, weight, h0, *given)
        return out, h_last, outputs[2], planes

    def apply(*arguments: Any) -> tuple[Tensor, ...]:
        arguments = (*arguments[:-1], True)  # whoever calls it so that it is differentiated wants that, whatever `save` says
        with torch._C._AutoDispatchBelowAutograd():
            outputs = op(*arguments)
        return recorded(Layer.apply, outputs, arguments)

    differentiable(f"{namespace}::layer", apply)
    straight = straight_apply(Layer)

    def call(*arguments: Any, state_shape: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
        outputs = direct(*arguments, state_shape) if state_shape or is_unwatched() else None
        if outputs is None:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = op(*arguments)
            if state_shape:
                outputs = (outputs[0], _shaped(outputs[1], state_shape), *outputs[2:])
        return recorded(straight, outputs, arguments) if arguments[-1] else outputs

    return call


def _shaped(state: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same tensor with another shape; or a view, where it is of a subclass, and an error where it does not fit."""
    if type(state) is not Tensor or state.numel() != math.prod(shape):
        return state.view(shape)
    return state.resize_(*shape)
