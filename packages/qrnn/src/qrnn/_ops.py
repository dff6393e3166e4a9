"""The ops `scan`, `layer`, and the backward ones, of `torch.ops.rnnkit_qrnn`, as torch sees them.

Importing this module loads the compiled library and teaches torch shapes and derivatives. Arguments:

    planes    one tensor (B, T, P * D), packed along its last dimension, or P tensors (B, T, D), as POOLINGS has them
    h0        (B, D), or None: 0
    lengths   (B,) int64, or None: every sequence has T steps
    seed      (1,) int64, or None: nothing is drawn
    pooling   index into POOLINGS
    zoneout   with a seed, the probability of an element to keep its state
    scale     factor of the gates that let something in, where nothing is kept
    save      keeps what backward needs: `carries`, the state before every 16th step, (B, ceil(T / 16) * D)

States (h0, h_last, carries) are float32, or float64 where the planes are. `layer` is `scan` of the packed planes
x weight^T + bias, for x (B, T, K): both in one op, because the calls of small layers cost more than their kernels.
"""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference
from ._derivatives import register_scan
from ._layers import register_layer
from ._names import refuse_namesake
from ._tensors import channels_of, split_planes

NAMESPACE = "rnnkit_qrnn"
# Pooling, and its planes. "mult" is ForgetMult: its planes are values, all others pre-activations.
POOLINGS = {"mult": ("f", "x"), "f": ("Z", "F"), "fo": ("Z", "F", "O"), "ifo": ("Z", "F", "I", "O")}


def composite(
    planes: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    seed: Tensor | None,
    pooling: int,
    zoneout: float,
    scale: float,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """`scan` by the reference."""
    kind = list(POOLINGS)[pooling]
    split = split_planes(planes, len(POOLINGS[kind]))
    return reference.scan(split, h0, lengths, seed, pooling=kind, zoneout=zoneout, scale=scale, reverse=reverse)


def register(namespace: str) -> SimpleNamespace:
    """Teaches torch the ops of a library that was compiled under `namespace`; returns the shortest ways to call them."""
    counts = [len(planes) for planes in POOLINGS.values()]
    scan = register_scan(
        namespace,
        channels=lambda planes, pooling, *_: channels_of(planes, counts[pooling]),
        initial=lambda *_: 0.0,
        reference=composite,
    )

    layer = register_layer(namespace, channels=lambda weight, pooling, *_: weight.shape[0] // counts[pooling])
    return SimpleNamespace(scan=scan, layer=layer)


refuse_namesake("qrnn")
CALLS = register(NAMESPACE)
