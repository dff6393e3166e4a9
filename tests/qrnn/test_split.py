"""A sequence that is cut along time, with a piece on each of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from qrnn import functional
from rnnkit_common.testing import check_split_scan


def scan(f, x, h):
    out, last = functional.forget_mult(f, x, h, batch_first=True)
    return out, last


def example():
    torch.manual_seed(0)
    planes = [torch.rand(2, 40, 5, dtype=torch.float64), torch.randn(2, 40, 5, dtype=torch.float64)]
    return scan, planes, torch.randn(2, 5, dtype=torch.float64)


@pytest.mark.slow
def test_pieces_are_the_whole(tmp_path: Path) -> None:
    check_split_scan(example, functional.split_scan, tmp_path)
