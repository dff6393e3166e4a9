"""A layer in one op, held against its product and its scan, called one after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .cases import strided

LAYOUTS = ("batch-first", "time-major", "offset", "channels")
Layer = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], tuple[Tensor, Tensor]]


def check_layer(fused: Layer, apart: Layer, weight: Tensor, bias: Tensor | None, state: Tensor, width: int) -> None:
    """Results and gradients of two ways to compute a layer are the same: for any strides of the input, whichever of the
    tensors need gradients, and in whatever precision autocast would make products while backward runs.

    Args:
        fused, apart: (x, weight, bias, h0) -> (out, h_last), for x (B, T, K).
        weight, bias: of the layer.
        state: h0 (B, D).
        width: K.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(state), 7, width, generator=generator)

    def gradients(layer: Layer, x: Tensor, h0: Tensor | None, needed: list[bool], autocast: bool) -> list[Tensor]:
        given = [
            None if t is None else t.detach().requires_grad_(n) for t, n in zip((x, weight, bias, h0), needed, strict=True)
        ]
        outputs = layer(*given)  # type: ignore[arg-type]
        wanted = [t for t in given if t is not None and t.requires_grad]
        seeds = [torch.linspace(-1, 1, t.numel()).view(t.shape) for t in outputs]
        if not wanted:
            return list(outputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return [*outputs, *torch.autograd.grad(outputs, wanted, seeds, allow_unused=True)]

    for layout in LAYOUTS:
        x = rows if layout == "batch-first" else strided(rows, layout)
        for needed in ([True] * 4, [False, True, False, False], [True, False, False, True], [False] * 4):
            for h0 in (state, None):
                found = gradients(fused, x, h0, needed, autocast=True)
                torch.testing.assert_close(found, gradients(apart, x, h0, needed, autocast=False), rtol=1e-4, atol=1e-4)
