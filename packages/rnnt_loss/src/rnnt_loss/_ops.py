"""The compiled library, and what the ops of `torch.ops.rnnkit_rnnt_loss` have in common.

Importing this module loads the library. Each op is taught to torch, its shapes and derivatives, in the room of its losses: lattice in
recursion.py, joint_scores in _scores.py, simple_scores in simple.py, prune_ranges in pruned.py, joiner_scores in _joiner.py. Nodes are
laid out as in `reference`: (B, T, rows). What all have:

    symbols    (B, S) int64
    boundary   (B, 4) int64, or None: every sequence has S symbols and T frames
    begin      (B, T) int64, the first row of a band, with a boundary; or None: rows are 0..S

Second derivatives are those of `reference`: exact, but computed node by node.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from ._names import refuse_namesake

NAMESPACE = "rnnkit_rnnt_loss"
WITH_CUDA = bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::lattice", "CUDA"))
CALLS = SimpleNamespace()  # the shortest ways to call the ops, by name

_Registration = Callable[[str], Callable[..., Any] | None]
_REGISTRATIONS: dict[str, _Registration] = {}

refuse_namesake("rnnt_loss")


def registration(name: str) -> Callable[[_Registration], _Registration]:
    """Marks the function that teaches torch the op `name`, compiled under a namespace, and returns the shortest way to call it."""

    def mark(function: _Registration) -> _Registration:
        _REGISTRATIONS[name] = function
        setattr(CALLS, name, function(NAMESPACE))
        return function

    return mark


def register(namespace: str) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns what CALLS has of this one."""
    return SimpleNamespace(**{name: function(namespace) for name, function in _REGISTRATIONS.items()})


def library_of(namespace: str) -> Any:
    """The compiled library, of which some functions can be called directly; None for one that was loaded under another namespace."""
    return _C if namespace == NAMESPACE else None


def python_op(name: str, schema: str, function: Callable[..., Any]) -> None:
    """Defines an op in Python. torch.library.custom_op does, too, and imports all of torch.compile for it."""
    torch.library.define(name, schema)
    torch.library.impl(name, "default", function)


def whole(boundary: Tensor | None, batch: int, symbols: int, frames: int, like: Tensor) -> Tensor:
    """The boundary, or that of sequences without padding."""
    if boundary is not None:
        return boundary
    made = torch.zeros(batch, 4, dtype=torch.int64, device=like.device)  # on the device: a copy from the host would wait
    made[:, 2].fill_(symbols)
    made[:, 3].fill_(frames)
    return made


def gradients(
    function: Callable[..., Any], inputs: list[Tensor], grads: list[Tensor | None], rest: tuple[Any, ...]
) -> list[Tensor | None]:
    """Gradients of the reference that can be differentiated again."""
    with torch.enable_grad():
        # views, so that each is an input of its own
        views = [t.view_as(t) for t in inputs]
        outputs = function(*views, *rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
        wanted = [v for v in views if v.requires_grad]
        of_wanted = iter(
            torch.autograd.grad(
                [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, materialize_grads=True
            )
        )
        return [next(of_wanted) if v.requires_grad else None for v in views]
