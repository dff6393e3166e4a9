"""First and second derivatives, by finite differences along random directions, in float64, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from qrnn import functional, reference
from qrnn._ops import POOLINGS
from rnnkit_common.testing import Backend
from torch import Tensor

OPTIONS = [{}, {"reverse": True, "lengths": [5, 2]}, {"lengths": [4, 0]}]


def double(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device, requires_grad=True)


def problem(pooling: str, options: dict, device: torch.device, layout: str) -> tuple[Callable[..., tuple], list[Tensor]]:
    """The op as a function of its planes (T = 5, B = 2, H = 3) and its initial state; zoneout where there can be."""
    torch.manual_seed(0)
    lengths = torch.tensor(options["lengths"], device=device) if "lengths" in options else None
    seed = torch.tensor([5], device=device) if pooling not in ("linear", "mult") else None
    count = 1 if layout == "packed" else len(POOLINGS[pooling])
    planes = [double(2, 5, 3 * len(POOLINGS[pooling]) // count, device=device) for _ in range(count)]

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        *planes, h0 = inputs
        direction = "backward" if "reverse" in options else "forward"
        return torch.ops.rnnkit_qrnn.scan(planes, h0, lengths, None, seed, pooling, 0.3, 1.25, direction, True)[:2]

    return run, [*planes, double(2, 3, device=device)]


# every pooling with every option, in one layout or the other
CASES = [(p, o, "packed" if (i + j) % 2 else "planes") for i, p in enumerate(POOLINGS) for j, o in enumerate(OPTIONS)]


@pytest.mark.kernels
@pytest.mark.parametrize(("pooling", "options", "layout"), CASES, ids=str)
def test_gradients(options: dict, pooling: str, layout: str, few_backends: Backend) -> None:
    run, inputs = problem(pooling, options, few_backends.device, layout)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(("pooling", "options", "layout"), CASES, ids=str)
def test_second_derivatives(options: dict, pooling: str, layout: str) -> None:
    run, inputs = problem(pooling, options, torch.device("cpu"), layout)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_third_derivatives_and_a_state_of_none() -> None:
    torch.manual_seed(0)
    f, x = double(4, 1, 2, device="cpu"), double(4, 1, 2, device="cpu")

    def curvature(h: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(h.square().sum(), f, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        return torch.autograd.grad(second.square().sum(), f)[0]

    planes = [t.transpose(0, 1) for t in (f, x)]
    expected, _ = reference.scan(planes, torch.zeros(1, 2, dtype=torch.float64), pooling="mult")
    torch.testing.assert_close(curvature(functional.forget_mult(f, x)[0]), curvature(expected))


def test_only_what_is_asked_for() -> None:
    """Gradients of the last state alone, of the output alone, and with only the initial state requiring them."""
    torch.manual_seed(0)
    gates, hidden = torch.randn(5, 2, 9), torch.randn(2, 3, requires_grad=True)
    out, last = reference.scan(list(gates.transpose(0, 1).chunk(3, dim=-1)), hidden)
    for a, e in zip(functional.pool(gates, hidden), (out.transpose(0, 1), last), strict=True):
        grads = [torch.autograd.grad(t.sum(), hidden, retain_graph=True)[0] for t in (a, e)]
        torch.testing.assert_close(*grads)


def test_expanded_and_transposed_output_gradients() -> None:
    """A sum's gradient is one number expanded, which torchqrnn's kernel read as memory that was not there."""
    torch.manual_seed(0)
    gates = torch.randn(5, 2, 12, requires_grad=True)
    expected, _ = reference.scan(list(gates.transpose(0, 1).chunk(3, dim=-1)), torch.zeros(2, 4))
    out, weights = functional.pool(gates)[0], torch.randn(4, 2, 5)
    for loss in (lambda t: t.sum(), lambda t: (t.permute(2, 1, 0) * weights).sum()):
        a, e = (torch.autograd.grad(loss(t), gates, retain_graph=True) for t in (out, expected.transpose(0, 1)))
        torch.testing.assert_close(a, e)


def test_torch_func() -> None:
    """grad, vmap and their compositions: here, gradients per sample and a Hessian."""
    torch.manual_seed(0)
    gates = torch.randn(3, 5, 2, 12, dtype=torch.float64)

    def loss(gates: Tensor) -> Tensor:
        return functional.pool(gates)[0].square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))(gates)
    hessian = torch.func.hessian(loss)(gates[0])
    for i in range(3):
        x = gates[i].requires_grad_()
        (expected,) = torch.autograd.grad(loss(x), x, create_graph=i == 0)
        torch.testing.assert_close(per_sample[i], expected)
        if i == 0:
            (row,) = torch.autograd.grad(expected[2, 1, 3], x)
            torch.testing.assert_close(hessian[2, 1, 3], row)
