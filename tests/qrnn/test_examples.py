"""The worked examples: ForgetMult in other uses, and linear RNNs of others on `linear_scan`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from rnnkit_common.testing import check_resets
from torch import Tensor, nn

EXAMPLES = Path(__file__).parents[2] / "packages" / "qrnn" / "examples"
EXAMPLE = runpy.run_path(str(EXAMPLES / "forget_mult_uses.py"))
RECURRENCES = runpy.run_path(str(EXAMPLES / "linear_recurrences.py"))


def test_discounted_returns() -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)
    ends = torch.tensor([[False], [True], [False], [False]])
    returns = EXAMPLE["discounted_returns"](rewards, ends, 0.5)
    torch.testing.assert_close(returns, torch.tensor([[2.0], [2.0], [8.0], [8.0]], dtype=torch.float64))


def test_smoothing_learns_a_rate() -> None:
    rate, loss = EXAMPLE["learn_to_smooth"](100)
    assert 0.05 < rate < 0.2
    assert loss < 0.2  # the noise has variance 1


@pytest.mark.parametrize("name", ["GILR", "HGRN", "RGLRU", "S5"])
def test_a_linear_recurrence_is_its_equations(name: str) -> None:
    """h_t = a_t h_{t-1} + b_t, by what each hands to `linear_scan`; sequences laid end to end stay apart."""
    torch.manual_seed(0)
    layer = RECURRENCES[name](6)
    x = torch.randn(9, 2, 6)
    out = layer(x)
    torch.testing.assert_close(out[:5], layer(x[:5]))  # causal
    last_alone = layer(x[-1:])
    assert not torch.allclose(out[-1:], last_alone)  # with a memory
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[-1] = True
    torch.testing.assert_close(layer(x, reset)[-1:], last_alone)

    class WithState(nn.Module):
        def forward(self, x: Tensor, reset: Tensor | None = None) -> tuple[Tensor]:
            return (layer(x, reset),)

    check_resets(WithState(), 6, batch_first=False)


@pytest.mark.slow
def test_a_linear_recurrence_learns_to_remember() -> None:
    assert RECURRENCES["train"](RECURRENCES["RGLRU"], steps=200, length=20) < 0.03
