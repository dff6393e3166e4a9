"""First and second derivatives, by finite differences along random directions, in float64, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mingru import MinGRU, functional, reference
from rnnkit_common.testing import Backend
from torch import Tensor

pytestmark = pytest.mark.kernels


def double(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device, requires_grad=True)


OPTIONS = [
    {},
    {"reverse": True, "lengths": [5, 2]},
    {"reset": [2], "lengths": [4, 0], "initial": -0.7},
    {"activation": "identity"},
    {"activation": "tanh", "reset": [0, 4], "reverse": True},
]


def problem(
    options: dict, gates: int, device: torch.device, layout: str
) -> tuple[Callable[..., tuple[Tensor, Tensor]], list]:
    torch.manual_seed(0)
    arguments = dict(options)
    if "lengths" in options:
        arguments["lengths"] = torch.tensor(options["lengths"], device=device)
    if "reset" in options:
        arguments["reset"] = torch.zeros(2, 5, dtype=torch.bool, device=device).index_fill(
            1, torch.tensor(options["reset"], device=device), True
        )
    count = 1 if layout == "packed" else gates + 1
    planes = [double(2, 5, 3 * (gates + 1) // count, device=device) for _ in range(count)]

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *planes, h0 = inputs
        return functional.scan(planes, gates, h0, **arguments)

    return run, [*planes, double(2, 3, device=device)]


# every option with both numbers of gates and both layouts, but not with each pair of these
CASES = [
    (options, gates, "packed" if (i + gates) % 2 else "planes") for i, options in enumerate(OPTIONS) for gates in (1, 2)
]


@pytest.mark.parametrize(("options", "gates", "layout"), CASES, ids=str)
def test_gradients(options: dict, gates: int, layout: str, few_backends: Backend) -> None:
    run, inputs = problem(options, gates, few_backends.device, layout)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(("options", "gates", "layout"), CASES, ids=str)
def test_second_derivatives(options: dict, gates: int, layout: str) -> None:
    run, inputs = problem(options, gates, torch.device("cpu"), layout)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_third_derivatives_and_a_state_of_none() -> None:
    torch.manual_seed(0)
    k, v = double(1, 4, 2, device="cpu"), double(1, 4, 2, device="cpu")

    def curvature(scan: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        out, _ = scan(k, v)
        (first,) = torch.autograd.grad(out.square().sum(), k, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), v, create_graph=True)
        return torch.autograd.grad(second.square().sum(), k)[0]

    start = torch.full((1, 2), 0.5, dtype=torch.float64)
    expected = curvature(lambda k, v: reference.scan([k, v], start))
    torch.testing.assert_close(curvature(functional.mingru_scan), expected)


def test_only_what_is_asked_for() -> None:
    """Gradients of h_last alone, of out alone, and with only h0 requiring them."""
    torch.manual_seed(0)
    k, v, h0 = (torch.randn(2, 5, 3), torch.randn(2, 5, 3), torch.randn(2, 3, requires_grad=True))
    expected = reference.scan([k, v], h0)
    actual = functional.mingru_scan(k, v, h0)
    for a, e in zip(actual, expected, strict=True):
        grads = [torch.autograd.grad(t.sum(), h0, retain_graph=True)[0] for t in (a, e)]
        torch.testing.assert_close(*grads)


def test_expanded_and_transposed_output_gradients() -> None:
    """A sum's gradient is one number expanded; others come transposed. Both must be read as what they are."""
    torch.manual_seed(0)
    k, v = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    expected, _ = reference.scan([k, v], torch.full((2, 4), 0.5))
    out, _ = functional.mingru_scan(k, v)
    weights = torch.randn(4, 5, 2)
    for loss in (lambda t: t.sum(), lambda t: (t.permute(2, 1, 0) * weights).sum()):
        torch.testing.assert_close(
            torch.autograd.grad(loss(out), [k, v], retain_graph=True),
            torch.autograd.grad(loss(expected), [k, v], retain_graph=True),
        )


def test_torch_func() -> None:
    """grad, vmap and their compositions: here, gradients per sample and a Hessian."""
    torch.manual_seed(0)
    k, v = torch.randn(3, 2, 5, 4, dtype=torch.float64), torch.randn(3, 2, 5, 4, dtype=torch.float64)

    def loss(k: Tensor, v: Tensor) -> Tensor:
        return functional.mingru_scan(k, v)[0].square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))(k, v)
    hessian = torch.func.hessian(loss)(k[0], v[0])
    for i in range(3):
        x = k[i].requires_grad_()
        (expected,) = torch.autograd.grad(loss(x, v[i]), x, create_graph=i == 0)
        torch.testing.assert_close(per_sample[i], expected)
        if i == 0:
            (row,) = torch.autograd.grad(expected[1, 2, 3], x)
            torch.testing.assert_close(hessian[1, 2, 3], row)


class Stopped(torch.autograd.Function):
    """Lets no gradient through."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("create_graph", [False, True])
def test_no_gradient_need_arrive(create_graph: bool) -> None:
    x = torch.randn(2, 5, 3, requires_grad=True)
    total = Stopped.apply(MinGRU(3, 4)(x)[0]).sum() + x.square().sum()
    (grad,) = torch.autograd.grad(total, x, create_graph=create_graph)
    torch.testing.assert_close(grad, 2 * x)


def test_backward_under_a_dual_level_where_nothing_is_dual() -> None:
    planes = torch.randn(2, 5, 8, requires_grad=True)
    expected = torch.autograd.grad(functional.scan_packed(planes)[0].sum(), planes)
    total = functional.scan_packed(planes)[0].sum()
    with torch.autograd.forward_ad.dual_level():
        torch.testing.assert_close(torch.autograd.grad(total, planes), expected)
