"""A sequence that is cut along time, with a piece on each of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mingru import functional
from rnnkit_common.testing import check_split_scan


def mingru_example():
    torch.manual_seed(0)
    planes = [torch.randn(2, 50, 5, dtype=torch.float64) for _ in range(2)]
    return functional.mingru_scan, planes, torch.randn(2, 5, dtype=torch.float64)


def minlstm_example():
    torch.manual_seed(0)
    planes = [torch.randn(2, 31, 5) for _ in range(3)]
    return functional.minlstm_scan, planes, torch.randn(2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("example", [mingru_example, minlstm_example])
def test_pieces_are_the_whole(example, tmp_path: Path) -> None:
    check_split_scan(example, functional.split_scan, tmp_path)
