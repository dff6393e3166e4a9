"""The ops `scan`, `layer`, `step`, `stack_step`, and the backward ones, of `torch.ops.rnnkit_qrnn`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments, by position or by name:

    inputs     one tensor (B, T, P * D), packed along its last dimension, or P tensors (B, T, D), as POOLINGS has them
    h0         (B, D), or None: 0
    lengths    (B,) int64, or None: every sequence has T steps
    reset      (B, T) bool, or None: the steps at which a sequence begins, from 0
    seed       (1,) int64, or None: nothing is drawn
    pooling    of POOLINGS
    zoneout    with a seed, the probability of an element to keep its state
    scale      factor of the gates that let something in, where nothing is kept
    direction  "forward", "backward", or "both": the second half of the channels goes backward
    save       keeps what backward needs: `carries`, the state before every k-th step, (B, ceil(T / k) * D), where k is
               16, or 8 on a GPU (the op `steps_per_carry`)

States (h0, h_last, carries) are float32, or float64 where the planes are. `step` is `scan` over one step, planes (B, P * D),
without derivatives, and `stack_step` one step of all layers, with their products, for x (B, K) and h (L, B, 1, D). `layer` is
`scan` of the packed planes x weight^T + bias, for x (B, T, K): both in one op, because the calls of small layers cost more than
their kernels.
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

NAMESPACE = "rnnkit_qrnn"
# Pooling, and its planes. Those of "linear" and "mult" (ForgetMult) are values, all others pre-activations.
POOLINGS = {"linear": ("a", "b"), "mult": ("f", "x"), "f": ("Z", "F"), "fo": ("Z", "F", "O"), "ifo": ("Z", "F", "I", "O")}


def plane_count(pooling: str, zoneout: float = 0.0, scale: float = 1.0, direction: str = "forward") -> int:
    """Of a pooling; refuses what is not known."""
    check_choice("pooling", pooling, tuple(POOLINGS))
    check_choice("direction", direction, DIRECTIONS)
    return len(POOLINGS[pooling])


def composite(
    inputs: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    pooling: str,
    zoneout: float,
    scale: float,
    direction: str,
) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    planes = split_planes(inputs, plane_count(pooling))
    options = (pooling, zoneout, scale, direction)
    return reference.scan(planes, h0, lengths, reset, seed, *options)


def register(namespace: str, library: Any = None) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    return register_family(
        namespace, planes=plane_count, reference=composite, extras=3, library=library
    )  # 3: lengths, reset, seed


refuse_namesake("qrnn")
CALLS = register(NAMESPACE, _C)
