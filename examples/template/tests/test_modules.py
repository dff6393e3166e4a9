"""The layer: what it computes, what it refuses, and that whatever works with nn.LSTM works with it."""

from __future__ import annotations

import pytest
import torch
from newname import Newname, functional
from rnnkit_common.testing import CONTRACT, check_module_contract


def make() -> Newname:
    return Newname(4, 4)


def inputs() -> tuple[torch.Tensor, ...]:
    return torch.randn(2, 5, 4), torch.randn(2, 4)


@pytest.mark.parametrize("check", CONTRACT)
def test_module_contract(check: str) -> None:
    check_module_contract(make, inputs, check)


def test_a_split_sequence_is_a_whole_one() -> None:
    torch.manual_seed(0)
    rnn, (x, h0) = make(), inputs()
    out, h_last = rnn(x, h0)
    first, h = rnn(x[:, :2], h0)
    second, h = rnn(x[:, 2:], h)
    torch.testing.assert_close(torch.cat([first, second], 1), out)
    torch.testing.assert_close(h, h_last)


def test_refused() -> None:
    planes, _ = inputs()
    with pytest.raises(ValueError, match=r"inputs: expected planes of shape \(B, T, k \* D\), got \[5, 4\]"):
        functional.scan([planes[0]])
    with pytest.raises(ValueError, match=r"inputs: expected .* planes in all, got 5 features"):
        functional.scan([planes, planes[..., :1]])
    with pytest.raises(TypeError, match="reset: expected bool"):
        functional.scan([planes], reset=torch.zeros(2, 5))
