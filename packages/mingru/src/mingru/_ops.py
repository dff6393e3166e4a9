"""The ops `scan`, `layer`, `step`, `stack_step`, and the backward ones, of `torch.ops.rnnkit_mingru`, as torch sees them.

Importing this module loads the compiled library and teaches torch what C++ cannot say through the stable ABI: shapes for
tracing and derivatives (`_derivatives.py`). Arguments, by position or by name:

    inputs      gate and hidden pre-activations: one tensor (B, T, P * D), packed along its last dimension, or P tensors
                (B, T, D): (gate, hidden), or (forget gate, input gate, hidden)
    h0          (B, D), or None: `initial` everywhere
    lengths     (B,) int64, or None: every sequence has T steps
    reset       (B, T) bool, or None: the steps at which a sequence begins, from `initial`
    cell        "mingru" or "minlstm"
    activation  "g", "identity" or "tanh"
    direction   "forward", "backward", or "both": the second half of the channels goes backward
    save        keeps what backward needs: `carries`, the state before every k-th step, (B, ceil(T / k) * D), where k is
                16, or 8 on a GPU (the op `steps_per_carry`)

States (h0, h_last, carries) are float32, or float64 where the planes are. `step` is `scan` over one step, planes (B, P * D),
without derivatives: it serves streaming, where the calls around a kernel cost more than the kernel. `stack_step` is one step of
all layers, with their products, for x (B, K) and h (L, B, 1, D). `layer` is `scan` of the
packed planes x weight^T + bias, for x (B, T, K): both in one op, because the calls of small layers cost more than their kernels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._checks import check_choice
from ._layers import register_family
from ._names import refuse_namesake
from ._recurrence import DIRECTIONS, split_planes

NAMESPACE = "rnnkit_mingru"


def plane_count(cell: str, activation: str = "g", initial: float = 0.5, direction: str = "forward") -> int:
    """Of a cell; refuses what is not known."""
    check_choice("cell", cell, ("mingru", "minlstm"))
    check_choice("activation", activation, reference.ACTIVATIONS)
    check_choice("direction", direction, DIRECTIONS)
    return 2 if cell == "mingru" else 3


def composite(
    inputs: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    cell: str,
    activation: str,
    initial: float,
    direction: str,
) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    planes = split_planes(inputs, plane_count(cell))
    return reference.scan(planes, h0, lengths, reset, activation=activation, initial=initial, direction=direction)


def register(namespace: str, library: Any = None) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    return register_family(
        namespace,
        planes=plane_count,
        reference=composite,
        initial=lambda cell, activation, initial, direction: initial,
        library=library,
    )


refuse_namesake("mingru")
CALLS = register(NAMESPACE, _C)
