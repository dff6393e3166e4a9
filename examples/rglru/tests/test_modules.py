"""The layer: whatever works with nn.LSTM works with it, and it begins in the paper's range."""

from __future__ import annotations

import pytest
import torch
from rglru import Rglru
from rnnkit_common.testing import CONTRACT, check_module_contract


@pytest.mark.parametrize("check", CONTRACT)
def test_module_contract(check: str) -> None:
    check_module_contract(lambda: Rglru(4), lambda: (torch.randn(2, 5, 4), torch.randn(2, 4)), check)


def test_it_begins_as_the_paper_does() -> None:
    torch.manual_seed(0)
    a = torch.exp(-8 * torch.nn.functional.softplus(Rglru(500).decay))
    assert 0.9 <= a.min() < 0.91
    assert 0.99 < a.max() <= 0.9991
