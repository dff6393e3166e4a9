"""What linear space buys: accuracy that does not fade with length, and 16-bit tensors that cost only their rounding."""

from __future__ import annotations

import pytest
import torch
from mingru import functional, reference
from rnnkit_common.testing import relative_error
from torch import Tensor


def problem(steps: int, channels: int, mu: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(1, steps, channels) + mu, torch.randn(1, steps, channels)


@pytest.mark.slow
@pytest.mark.parametrize("mu", [-4.0, 0.0, 4.0])
def test_forward_at_65536_steps(mu: float) -> None:
    k, v = problem(65536, 32, mu)
    out, h = functional.mingru_scan(k, v)
    truth, last = reference.scan([k.double(), v.double()], torch.full((1, 32), 0.5, dtype=torch.float64))
    assert relative_error(out, truth) <= 2e-6
    assert relative_error(h, last) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("mu", [-4.0, 0.0, 4.0])
def test_gradients_at_4096_steps(mu: float) -> None:
    planes = problem(4096, 32, mu)
    grad = torch.randn(1, 4096, 32)

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        k, v = (t.to(dtype).requires_grad_() for t in planes)
        h0 = torch.full((1, 32), 0.5, dtype=dtype, requires_grad=True)
        scan = reference.scan if dtype == torch.float64 else lambda p, h: functional.mingru_scan(*p, h)
        return torch.autograd.grad(scan([k, v], h0)[0], [k, v], grad.to(dtype))

    for actual, truth in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert relative_error(actual, truth) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mu", [-4.0, 0.0, 4.0])
def test_sixteen_bits_cost_no_more_than_rounding_twice(dtype: torch.dtype, mu: float) -> None:
    """out in 16 bits against the fp64 answer to the rounded inputs: within two roundings of it at any length."""
    k, v = (t.to(dtype) for t in problem(8192, 16, mu))
    out, _ = functional.mingru_scan(k, v)
    truth, _ = reference.scan([k.double(), v.double()], torch.full((1, 16), 0.5, dtype=torch.float64))
    spacing = torch.finfo(dtype).eps * truth.abs().clamp_min(torch.finfo(dtype).tiny)
    assert ((out.double() - truth).abs() <= spacing).all()
