"""The ops `scan`, `layer`, `step`, `stack_step`, and the backward ones, of `torch.ops.rnnkit_mingru`, as torch sees them.

Importing this module loads the compiled library and teaches torch what C++ cannot say through the stable ABI: shapes for
tracing (`register_fake`) and derivatives (`_derivatives.py`). Arguments:

    planes      gate and hidden pre-activations: one tensor (B, T, P * D), packed along its last dimension, or P tensors
                (B, T, D). P = gates + 1: (gate, hidden), or (forget gate, input gate, hidden)
    h0          (B, D), or None: `initial` everywhere
    lengths     (B,) int64, or None: every sequence has T steps
    reset       (B, T) bool, or None
    gates       1: minGRU, 2: minLSTM
    activation  index into ACTIVATIONS
    save        keeps what backward needs: `carries`, the state before every 16th step, (B, ceil(T / 16) * D)

States (h0, h_last, carries) are float32, or float64 where the planes are. `step` is `scan` over one step, planes (B, P * D),
without derivatives: it serves streaming, where the calls around a kernel cost more than the kernel. `stack_step` is one step of
all layers, with their products, for x (B, K) and h (L, B, 1, D). `layer` is `scan` of the
packed planes x weight^T + bias, for x (B, T, K): both in one op, because the calls of small layers cost more than their kernels.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._derivatives import register_scan
from ._layers import register_layer
from ._names import refuse_namesake
from ._tensors import channels_of, split_planes, state_dtype

NAMESPACE = "rnnkit_mingru"
ACTIVATIONS = ("g", "identity", "tanh")


def composite(
    planes: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    gates: int,
    activation: int,
    initial: float,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    kind = ACTIVATIONS[activation]
    split = split_planes(planes, gates + 1)
    return reference.scan(split, h0, lengths, reset, activation=kind, initial=initial, reverse=reverse)


def register(namespace: str) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    scan = register_scan(
        namespace,
        channels=lambda planes, gates, *_: channels_of(planes, gates + 1),
        initial=lambda gates, activation, initial, reverse: initial,
        reference=composite,
    )

    layer = register_layer(namespace, channels=lambda weight, gates, *_: weight.shape[0] // (gates + 1))

    @torch.library.register_fake(f"{namespace}::step")
    def _(planes, h, gates, activation, initial):  # type: ignore[no-untyped-def]
        out = planes.new_empty(planes.shape[0], planes.shape[1] // (gates + 1))
        return out, torch.empty_like(out, dtype=state_dtype(planes))

    @torch.library.register_fake(f"{namespace}::stack_step")
    def _(x, weights, biases, h, gates, activation, initial):  # type: ignore[no-untyped-def]
        width = weights[0].shape[0] // (gates + 1)
        return x.new_empty(x.shape[0], width), x.new_empty(len(weights), x.shape[0], 1, width, dtype=state_dtype(x))

    return SimpleNamespace(scan=scan, layer=layer)


refuse_namesake("mingru")
CALLS = register(NAMESPACE)
