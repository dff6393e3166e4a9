"""First and second derivatives, by finite differences along random directions, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ligru import functional
from rnnkit_common.testing import Backend
from torch import Tensor

OPTIONS: list[dict] = [
    {},
    {"nonlinearity": "tanh", "bidirectional": True, "lengths": [4, 2]},
    {"nonlinearity": "sin", "mask": True, "normalize": True},
    {"nonlinearity": "leaky_relu", "normalize": True, "affine": True, "bidirectional": True, "lengths": [1, 4]},
]


def problem(options: dict, device: torch.device) -> tuple[Callable[..., tuple], list[Tensor]]:
    """The op as a function of its inputs and h0, with T = 4, B = 2, H = 3."""
    torch.manual_seed(0)
    given = dict(options)
    directions = 2 if given.get("bidirectional") else 1

    def double(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, device=device, requires_grad=True)

    inputs = [double(2, 4, 6), double(6, 3), double(directions, 2, 3)]
    if given.pop("affine", False):
        inputs += [double(6), double(6)]
    if given.pop("mask", False):
        given["mask"] = torch.rand(directions, 2, 3, dtype=torch.float64, device=device)
    if "lengths" in given:
        given["lengths"] = torch.tensor(given["lengths"], device=device)

    def run(g: Tensor, weight: Tensor, h0: Tensor, *affine: Tensor) -> tuple[Tensor, Tensor]:
        norm = dict(zip(("norm_weight", "norm_bias"), affine, strict=False))
        return functional.recurrence(g, weight, h0, **given, **norm)

    return run, inputs


@pytest.mark.kernels
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_first_derivatives(options: dict, few_backends: Backend) -> None:
    assert torch.autograd.gradcheck(*problem(options, few_backends.device), fast_mode=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_second_derivatives(options: dict) -> None:
    assert torch.autograd.gradgradcheck(*problem(options, torch.device("cpu")), fast_mode=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_functional_transforms(options: dict) -> None:
    """torch.func.grad, jvp and vmap go through the reference."""
    run, inputs = problem(options, torch.device("cpu"))

    def total(*values: Tensor) -> Tensor:
        out, h = run(*values)
        return out.square().sum() + h.sin().sum()

    every = tuple(range(len(inputs)))
    expected = torch.autograd.grad(total(*inputs), inputs)
    torch.testing.assert_close(torch.func.grad(total, every)(*inputs), tuple(expected))
    tangents = [torch.randn_like(t) for t in inputs]
    _, slope = torch.func.jvp(total, tuple(t.detach() for t in inputs), tuple(tangents))
    torch.testing.assert_close(slope, sum((a * b).sum() for a, b in zip(expected, tangents, strict=True)))
    stacked = torch.stack([inputs[0], 2 * inputs[0]])
    outs, _ = torch.vmap(run, in_dims=(0, *[None] * (len(inputs) - 1)))(stacked, *inputs[1:])
    torch.testing.assert_close(outs[1], run(2 * inputs[0], *inputs[1:])[0])
