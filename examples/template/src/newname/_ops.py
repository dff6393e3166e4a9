"""The ops `scan`, `layer`, `step`, `stack_step`, and the backward ones, of `torch.ops.rnnkit_newname`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments, by position or by name:

    inputs     see `functional.scan`
    h0         (B, D), or None: 0
    lengths    (B,) int64, or None: every sequence has T steps
    reset      (B, T) bool, or None: the steps at which a sequence begins, from 0
    direction  "forward", "backward", or "both": the second half of the channels goes backward
    save       keeps what backward needs: `carries`, the state before every k-th step, (B, ceil(T / k) * D), where k is
               16, or 8 on a GPU (the op `steps_per_carry`)

States (h0, h_last, carries) are float32, or float64 where the planes are.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._layers import register_family
from ._names import refuse_namesake

NAMESPACE = "rnnkit_newname"
composite = reference.scan


def register(namespace: str, library: Any = None) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    return register_family(namespace, planes=lambda *_: reference.PLANES, reference=composite, library=library)


refuse_namesake("newname")
CALLS = register(NAMESPACE, _C)
