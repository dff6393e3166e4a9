"""A layer in one op, held against its product and its scan, called one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
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
                actual = gradients(fused, x, h0, needed, autocast=True)
                torch.testing.assert_close(actual, gradients(apart, x, h0, needed, autocast=False), rtol=1e-4, atol=1e-4)


def check_what_a_layer_keeps(layer: Layer, weight: Tensor, bias: Tensor, width: int) -> None:
    """As nn.Linear's, the graph needs the input only for the gradient of the weight, the weight only for that of the input, and
    the bias for nothing: the others may be changed in place. What it does need may not. And a product that is too large is an error.

    Args:
        layer: see `check_layer`.
        weight, bias: of the layer.
        width: K.
    """

    def run(needed: tuple[bool, bool], changed: int | None) -> list[Tensor]:
        torch.manual_seed(0)
        x = torch.randn(2, 7, width).requires_grad_(needed[0])
        given = [x * 1, weight.clone().requires_grad_(needed[1]), bias.clone().requires_grad_()]
        outputs = layer(given[0], given[1], given[2], None)
        with torch.no_grad():
            if changed is not None:
                given[changed].mul_(1.5)
        leaves = [t for t in (x, given[1]) if t.requires_grad]
        return list(torch.autograd.grad(outputs[0].sum(), leaves))

    for needed, free in (((True, False), 0), ((False, True), 1), ((True, True), 2)):
        torch.testing.assert_close(run(needed, free), run(needed, None))
    for needed, kept in (((True, True), 0), ((True, False), 1)):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run(needed, kept)
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 1, width).expand(1 << 20, 1 << 20, width), weight, bias, None)


def check_resets(module: torch.nn.Module, features: int, *, batch_first: bool) -> None:
    """Sequences laid end to end, with `reset` where each begins, give what they give alone: outputs, and gradients of the input."""
    generator = torch.Generator().manual_seed(0)
    alone = [torch.randn(2, steps, features, generator=generator) for steps in (4, 1, 2, 6)]
    joined = torch.cat(alone, 1)
    reset = torch.zeros(2, 13, dtype=torch.bool)
    reset[:, [4, 5, 7]] = True

    def run(x: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x.requires_grad_()
        given, marks = x, reset
        if not batch_first:
            given, marks = x.transpose(0, 1), None if reset is None else reset.transpose(0, 1)
        out = module(given, reset=marks)[0]
        out = out if batch_first else out.transpose(0, 1)
        return out, torch.autograd.grad(out.square().sum(), x)[0]

    expected = [torch.cat(parts, 1) for parts in zip(*(run(x, None) for x in alone), strict=True)]
    for actual, wanted in zip(run(joined, reset), expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    with pytest.raises(TypeError, match="reset: expected bool"):
        run(joined, reset.int())
    with pytest.raises(ValueError, match="reset: expected shape"):
        run(joined, reset[:, :-1])
