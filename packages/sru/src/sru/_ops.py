"""The ops `scan`, `layer`, `stack_step`, `product`, and the backward ones, of `torch.ops.rnnkit_sru`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments, by position or by name:

    inputs         [(v_f), U, (x), (v_r), parameters], see `reference.scan`; sequences are (B, T, ...), of one dtype
    c0             (B, D), or None: 0
    lengths        (B,) int64, or None: every sequence has T steps
    reset          (B, T) bool, or None: the steps at which a sequence begins, from 0
    pad            (B, T) bool, or None
    mask, scale    (B, D) and (1,), or None: 1
    activation     of reference.ACTIVATIONS
    skip           of reference.SKIPS
    peephole       of reference.PEEPHOLES
    direction      "forward", "backward", or "both": the second half of the channels goes from the last step to the first
    save           keeps what backward needs: `carries`, c before every k-th step, (B, ceil(T / k) * D), where k is 16, or 8
                   on a GPU (the op `steps_per_carry`)

States, parameters, mask and scale are float32, or float64 where the sequences are. `layer(x, weight, bias, weight_c, ...)` is
`scan` with the skip "input" and U = x weight, of x (B, T, D), or (T, B, D) unless `batch_first`; its backward lets the matrix
product add to the gradient of x that the scan wrote. `product(x, weight)`, of (N, K) and (K, M), is a matmul that is faster on
some CPUs. `stack_step` is one step of all layers of a stream, x (B, K), c (L, B, D), without derivatives.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._checks import check_choice
from ._decompositions import decompose
from ._derivatives import register_scan, register_shapes, with_backward, without_derivatives
from ._layers import decompose_scan, register_layer
from ._names import refuse_namesake
from ._recurrence import DIRECTIONS
from ._tensors import state_dtype

NAMESPACE = "rnnkit_sru"
EXTRAS = 5  # lengths, reset, pad, mask, scale


def plane_count(activation: str, skip: str, peephole: str, direction: str = "forward") -> int:
    """Of a kind of scan; refuses what is not known."""
    check_choice("activation", activation, reference.ACTIVATIONS)
    check_choice("skip", skip, reference.SKIPS)
    check_choice("peephole", peephole, reference.PEEPHOLES)
    check_choice("direction", direction, DIRECTIONS)
    return 3 + (skip != "none") + (2 if peephole == "plane" else 0)


def composite(inputs: list[Tensor], c0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    names = ("activation", "skip", "peephole", "direction")
    return reference.scan(inputs, c0, *rest[:EXTRAS], **dict(zip(names, rest[EXTRAS:], strict=True)))


def register(namespace: str, library: Any = None) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    scan = register_scan(namespace, planes=plane_count, reference=composite, extras=EXTRAS, library=library)

    def shapes_of_product(x, weight):  # type: ignore[no-untyped-def]
        return x.new_empty(x.shape[0], weight.shape[1])

    def shapes_of_stack_step(x, weights, biases, *rest):  # type: ignore[no-untyped-def]
        batch, width = x.shape[0], biases[0].shape[0] // 2
        return x.new_empty(batch, width), x.new_empty(len(weights), batch, width, dtype=state_dtype(x))

    register_shapes(f"{namespace}::product", shapes_of_product)
    register_shapes(f"{namespace}::stack_step", shapes_of_stack_step)

    def setup_product(ctx: Any, arguments: tuple[Tensor, ...], _: Tensor) -> None:
        ctx.save_for_backward(*arguments)

    def product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight.t()) if ctx.needs_input_grad[0] else None
        return grad_x, x.t() @ grad if ctx.needs_input_grad[1] else None

    def scan_backward(
        grad_out: Tensor, grad_c_last: Tensor | None, x: Tensor, bias: Tensor, weight_c: Tensor | None, *rest: Any
    ) -> tuple[Tensor | None, ...]:
        u, *kept, activation, direction = rest
        parameters = [bias] if weight_c is None else [bias, weight_c]
        options = (activation, "input", "none" if weight_c is None else "parameter", direction)
        backward = getattr(torch.ops, namespace).scan_backward
        of_u, of_x, *of_parameters, of_c0 = backward(grad_out, grad_c_last, [u, x, *parameters], *kept, *options)
        return of_u, of_x, of_parameters[0], None if weight_c is None else of_parameters[1], of_c0

    def planes_of_layer(activation: str, direction: str) -> int:
        return plane_count(activation, "column", "none", direction) - 1  # the highway is x

    kind = {"planes_dim": 1, "parameters": 2, "extras": EXTRAS, "library": library}
    layer = register_layer(namespace, planes=planes_of_layer, scan_backward=scan_backward, **kind)
    scan_decomposed = decompose_scan(namespace, planes=plane_count, reference=composite, extras=EXTRAS)

    def layer_decomposed(
        x: Tensor, weight: Tensor, bias: Tensor, weight_c: Tensor | None, c0: Tensor | None, *rest: Any
    ) -> tuple[Tensor, ...]:
        *extras, activation, direction, batch_first, save = rest
        rows = x if batch_first else x.transpose(0, 1)
        u, parameters = rows @ weight, [bias] if weight_c is None else [bias, weight_c]
        options = (activation, "input", "none" if weight_c is None else "parameter", direction, save)
        out, c_last, carries = scan_decomposed([u, rows, *parameters], c0, *extras, *options)
        return out if batch_first else out.transpose(0, 1), c_last, carries, u

    decompose(f"{namespace}::layer", layer_decomposed)
    decompose(f"{namespace}::product", torch.mm)
    product = with_backward(f"{namespace}::product", setup_product, product_backward)
    stack_step = without_derivatives(f"{namespace}::stack_step", library)
    return SimpleNamespace(scan=scan, layer=layer, product=product, stack_step=stack_step)


refuse_namesake("sru")
CALLS = register(NAMESPACE, _C)
