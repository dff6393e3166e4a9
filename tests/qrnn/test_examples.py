"""The worked example of ForgetMult in other uses."""

from __future__ import annotations

import runpy
from pathlib import Path

import torch

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "packages" / "qrnn" / "examples" / "forget_mult_uses.py"))


def test_discounted_returns() -> None:
    rewards = torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)
    ends = torch.tensor([[False], [True], [False], [False]])
    returns = EXAMPLE["discounted_returns"](rewards, ends, 0.5)
    torch.testing.assert_close(returns, torch.tensor([[2.0], [2.0], [8.0], [8.0]], dtype=torch.float64))


def test_smoothing_learns_a_rate() -> None:
    rate, loss = EXAMPLE["learn_to_smooth"](100)
    assert 0.05 < rate < 0.2
    assert loss < 0.2  # the noise has variance 1
