"""The ops `scan`, `scan_backward`, `layer`, `infer`, `product` and `add_product` of `torch.ops.rnnkit_sru`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments:

    inputs         [U, (x), (v_f, v_r), parameters], see `reference.scan`; sequences are (B, T, ...), of one dtype
    c0             (B, D), or None: 0
    lengths        (B,) int64, or None: every sequence has T steps
    pad            (B, T) bool, or None
    mask, scale    (B, D) and (1,), or None: 1
    activation     index into reference.ACTIVATIONS
    skip           index into reference.SKIPS
    peephole       index into reference.PEEPHOLES
    bidirectional  the second half of the channels goes from the last step to the first
    save           keeps what backward needs: `carries`, c before every 16th step, (B, ceil(T / 16) * D)

States, parameters, mask and scale are float32, or float64 where the sequences are. `layer(x, weight, parameters, ...)` is
`scan` with the skip "input" and U = x weight; its backward lets the matrix product add to the gradient of x that the scan
wrote, on the CPU by `add_product`. `infer` is `layer` without derivatives, which would cost a single step as much as the
kernel. `product(x, weight)`, of (N, K) and (K, M), is a matmul that is faster on some CPUs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._derivatives import differentiable, register_scan, with_backward
from ._shared import STEPS_PER_CARRY, empty_rows, refuse_namesake, state_dtype

NAMESPACE = "rnnkit_sru"
EXTRAS = 4  # lengths, pad, mask, scale
ADD_PRODUCT = torch.ops.rnnkit_sru.add_product
INPUT = reference.SKIPS.index("input")


def composite(inputs: list[Tensor], c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    activation, skip, peephole, bidirectional = rest[EXTRAS:]
    return reference.scan(
        inputs,
        c0,
        *rest[:EXTRAS],
        activation=reference.ACTIVATIONS[activation],
        skip=reference.SKIPS[skip],
        peephole=reference.PEEPHOLES[peephole],
        bidirectional=bidirectional,
    )


def _rows(t: Tensor, like: Tensor) -> Tensor:
    """(B, T, D) -> (B * T, D), or (T * B, D) where that is how `like` lies in memory."""
    return (t.transpose(0, 1) if like.stride(0) < like.stride(1) else t).reshape(-1, t.shape[2])


def _add_product(total: Tensor, x: Tensor, weight: Tensor, differentiable: bool) -> Tensor:
    """total + x weight^T, for total (B, T, K), x (B, T, M) and weight (K, M); may overwrite `total`."""
    if differentiable:
        return total + x @ weight.t()
    rows = _rows(total, total)
    if total.device.type != "cpu":
        rows.addmm_(_rows(x, total), weight.t())
        return total
    batch, steps, width = total.shape
    made = ADD_PRODUCT(rows, _rows(x, total), weight)
    turned = total.stride(0) < total.stride(1)
    return made.view(steps, batch, width).transpose(0, 1) if turned else made.view(batch, steps, width)


@torch.library.register_fake(f"{NAMESPACE}::add_product")
def _(total, x, weight):  # type: ignore[no-untyped-def]
    return torch.empty_like(total)


def register(namespace: str) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    scan = register_scan(
        namespace,
        channels=lambda inputs, *_: inputs[-1].shape[1],
        initial=lambda *_: 0.0,
        reference=composite,
        extras=EXTRAS,
    )
    ops = getattr(torch.ops, namespace)

    @torch.library.register_fake(f"{namespace}::layer")
    def _(x, weight, parameters, c0, *rest):  # type: ignore[no-untyped-def]
        save = rest[-1]
        (batch, steps), width = x.shape[:2], parameters.shape[1]
        c_last = x.new_empty(batch, width, dtype=state_dtype(x))
        carries = c_last.new_empty(batch, (steps + STEPS_PER_CARRY - 1) // STEPS_PER_CARRY * width if save else 0)
        u = empty_rows(x, weight.shape[1]) if save else x.new_empty(0)
        return empty_rows(x, width), c_last, carries, u

    @torch.library.register_fake(f"{namespace}::product")
    def _(x, weight):  # type: ignore[no-untyped-def]
        return x.new_empty(x.shape[0], weight.shape[1])

    @torch.library.register_fake(f"{namespace}::infer")
    def _(x, weight, parameters, *rest):  # type: ignore[no-untyped-def]
        width = parameters.shape[1]
        return empty_rows(x, width), x.new_empty(x.shape[0], width, dtype=state_dtype(x))

    def setup_product(ctx: Any, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        ctx.save_for_backward(*arguments)

    def product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        return grad_x, x.t() @ grad if ctx.needs_input_grad[1] else None

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, rest: tuple[Any, ...], x: Tensor, weight: Tensor, parameters: Tensor, c0: Tensor | None
        ) -> tuple[Tensor, ...]:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = ops.layer.default(x, weight, parameters, c0, *rest)
            activation, peephole, bidirectional, _ = rest[EXTRAS:]
            ctx.options = (activation, INPUT, peephole, bidirectional)
            ctx.save_for_backward(x, weight, parameters, c0, *rest[:EXTRAS], *outputs[2:])
            ctx.mark_non_differentiable(*outputs[2:])
            ctx.set_materialize_grads(False)
            return tuple(outputs)

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor | None, grad_c_last: Tensor | None, *_: None) -> tuple[Any, ...]:
            x, weight, parameters, c0, *extras, carries, u = ctx.saved_tensors
            if grad_out is None:
                grad_out = torch.zeros_like(x)
            if grad_c_last is not None:
                grad_c_last = grad_c_last.contiguous()
            again = torch.is_grad_enabled()  # for second derivatives, U has to be known as a function of x and the weight
            inputs = [x @ weight if again else u, x, parameters]
            grads = ops.scan_backward(grad_out, grad_c_last, inputs, carries, c0, *extras, *ctx.options)
            grad_u, grad_x, grad_parameters, grad_c0 = grads
            grad_weight = _rows(x, grad_u).t() @ _rows(grad_u, grad_u) if ctx.needs_input_grad[2] else None
            if ctx.needs_input_grad[1]:
                grad_x = _add_product(grad_x, grad_u, weight, again)
            return None, grad_x, grad_weight, grad_parameters, None if c0 is None else grad_c0

    def apply_layer(x: Tensor, weight: Tensor, parameters: Tensor, c0: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        return Layer.apply(rest, x, weight, parameters, c0)  # type: ignore[no-untyped-call]

    product = with_backward(f"{namespace}::product", setup_product, product_backward)
    return SimpleNamespace(scan=scan, layer=differentiable(f"{namespace}::layer", apply_layer), product=product)


refuse_namesake("sru")
CALLS = register(NAMESPACE)
