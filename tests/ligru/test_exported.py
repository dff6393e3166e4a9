"""Out of Python: ONNX in onnxruntime, core ATen, and compiled packages in a C++ program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ligru import LiGRU, SLiGRU, decompositions
from ligru._ops import _C
from rnnkit_common.testing.exported import Step, check_decomposes, check_onnx, check_runs_without_python
from torch import nn

pytestmark = pytest.mark.slow

B, T = torch.export.Dim("B", min=1, max=64), torch.export.Dim("T", min=1, max=4096)
ROWS = ({0: B, 1: T},)
SHAPE = (3, 9, 5)


@pytest.mark.parametrize(
    "model",
    [LiGRU(7, SHAPE, num_layers=2, bidirectional=True), SLiGRU(7, SHAPE, num_layers=2)],
    ids=["LiGRU", "SLiGRU"],
)
def test_onnx_of_any_batch_and_length(model: nn.Module) -> None:
    check_onnx(model, (torch.randn(3, 9, 5),), ROWS, (torch.randn(1, 20, 5),), (torch.randn(2, 1, 5),))


def test_onnx_with_states_and_lengths() -> None:
    shapes = ({0: B, 1: T}, {1: B}, {0: B})
    example = (torch.randn(3, 9, 5), torch.randn(2, 3, 7), torch.tensor([9, 0, 4]))
    other = (torch.randn(2, 4, 5), torch.randn(2, 2, 7), torch.tensor([1, 4]))
    check_onnx(SLiGRU(7, SHAPE, bidirectional=True), example, shapes, other)


def test_onnx_of_a_step_is_a_loop_of_nothing() -> None:
    example, other = ((torch.randn(b, 5), torch.randn(2, b, 7)) for b in (3, 1))
    nodes = check_onnx(Step(LiGRU(7, SHAPE, num_layers=2)), example, (({0: B}, {1: B}),), other)
    assert "Scan" not in nodes


def test_decompositions_leave_core_aten_and_scan() -> None:
    check_decomposes(SLiGRU(7, SHAPE, num_layers=2), (torch.randn(3, 9, 5),), ROWS, decompositions())


def test_a_compiled_package_runs_without_python(tmp_path: Path) -> None:
    check_runs_without_python(SLiGRU(7, SHAPE, num_layers=2), (torch.randn(3, 9, 5),), _C.__file__, tmp_path)
