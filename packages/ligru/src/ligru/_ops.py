"""The ops `recurrence` and `recurrence_backward` of `torch.ops.rnnkit_ligru`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments, by position or by name:

    inputs         [g, U] or [g, U, weight, bias], see `reference.recurrence`; g and U have one dtype
    h0, mask       (D, B, H), or None: 0 and 1
    lengths        (B,) int64, or None: every sequence has T steps
    reset          (B, T) bool, or None: where True, a sequence begins; no state passes between that step and the one before
    activation     of reference.ACTIVATIONS
    normalize      whether U h is normalised, with `eps`
    tf32           whether float32 may be multiplied with U as TF32 (10 bits behind the point, sums in float32), as tensor cores
                   do; nothing else changes, and on a CPU nothing at all
    save           keeps what backward needs: `gates`, the pre-activations (D, B, T, 2H); and with `normalize`, `normal`, U h as it
                   is normalised, before weight and bias, and `rstd` (D, B, T, 1). What is not kept has the shape (0,)

States, mask, weight and bias are float32, or float64 where g is.
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
from ._derivatives import directly, register_derivatives, register_shapes
from ._names import refuse_namesake
from ._tensors import state_dtype

NAMESPACE = "rnnkit_ligru"
EXTRAS = 3  # lengths, reset, mask


def composite(inputs: list[Tensor], h0: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`recurrence` by the reference."""
    activation, bidirectional, normalize, eps, _ = rest[EXTRAS:]
    return reference.recurrence(
        inputs,
        h0,
        *rest[:EXTRAS],
        activation=activation,
        bidirectional=bidirectional,
        normalize=normalize,
        eps=eps,
    )


def out_width(inputs: list[Tensor], activation: str, bidirectional: bool, *_: Any) -> int:
    """D * H."""
    return inputs[1].shape[1] * (2 if bidirectional else 1)


def register(namespace: str, library: Any = None) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""

    def shapes_of_recurrence(inputs, h0, lengths, reset, mask, activation, bidirectional, normalize, eps, tf32, save):  # type: ignore[no-untyped-def]
        check_choice("activation", activation, reference.ACTIVATIONS)
        g, units = inputs[0], inputs[1].shape[1]
        directions, (batch, steps) = 2 if bidirectional else 1, g.shape[:2]
        h_last = g.new_empty(directions, batch, units, dtype=state_dtype(g))
        over_time = (directions, batch, steps)
        gates = g.new_empty(*over_time, 2 * units) if save else g.new_empty(0)
        normal = torch.empty_like(gates) if normalize else g.new_empty(0)
        rstd = h_last.new_empty(*over_time, 1) if save and normalize else h_last.new_empty(0)
        return g.new_empty(batch, steps, directions * units), h_last, gates, normal, rstd

    def shapes_of_backward(grad_out, grad_h_last, inputs, out, gates, *rest):  # type: ignore[no-untyped-def]
        directions, batch, _, width = gates.shape
        grads = [t.new_empty(t.shape) for t in inputs]
        return [*grads, gates.new_empty(directions, batch, width // 2, dtype=state_dtype(gates))]

    register_shapes(f"{namespace}::recurrence", shapes_of_recurrence)
    register_shapes(f"{namespace}::recurrence_backward", shapes_of_backward)
    recurrence = register_derivatives(
        f"{namespace}::recurrence",
        kept=(0, 2, 3, 4),
        channels=out_width,
        initial=lambda *_: 0.0,
        reference=composite,
        extras=EXTRAS,
        library=library,
    )

    def recurrence_decomposed(inputs: list[Tensor], h0: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
        *options, _ = rest
        g, units = inputs[0], inputs[1].shape[1]
        if h0 is None:
            directions = out_width(inputs, *options[EXTRAS:]) // units
            h0 = g.new_zeros(directions, g.shape[0], units, dtype=state_dtype(g))
        out, h_last = composite(inputs, h0, *options)
        none = g.new_empty(0)
        return out.to(g.dtype), h_last, none, none.clone(), h_last.new_empty(0)

    decompose(f"{namespace}::recurrence", recurrence_decomposed)
    layer, layer_backward = directly(library, "layer"), directly(library, "layer_backward")  # no ops: see _small.py
    return SimpleNamespace(recurrence=recurrence, layer=layer, layer_backward=layer_backward)


refuse_namesake("ligru")
CALLS = register(NAMESPACE, _C)
