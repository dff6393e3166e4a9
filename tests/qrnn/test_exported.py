"""Out of Python: ONNX in onnxruntime, core ATen, and compiled packages in a C++ program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from qrnn import QRNN, decompositions
from qrnn._ops import _C
from rnnkit_common.testing.exported import Step, check_decomposes, check_onnx, check_runs_without_python

pytestmark = pytest.mark.slow

B, T = torch.export.Dim("B", min=1, max=64), torch.export.Dim("T", min=1, max=4096)
ROWS = ({0: T, 1: B},)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_onnx_of_any_batch_and_length(window: int) -> None:
    model = QRNN(5, 7, num_layers=2, window=window, bidirectional=window == 3)
    check_onnx(model, (torch.randn(9, 3, 5),), ROWS, (torch.randn(20, 1, 5),), (torch.randn(1, 2, 5),))


def test_onnx_with_states_and_lengths() -> None:
    shapes = ({0: T, 1: B}, {1: B}, {0: B})
    model = QRNN(5, 7, window=2)
    example = (torch.randn(9, 3, 5), torch.randn(1, 3, 7), torch.tensor([9, 0, 4]))
    check_onnx(model, example, shapes, (torch.randn(4, 2, 5), torch.randn(1, 2, 7), torch.tensor([1, 4])))


def test_onnx_of_a_step_is_a_loop_of_nothing() -> None:
    example, other = ((torch.randn(b, 5), torch.randn(2, b, 7)) for b in (3, 1))
    nodes = check_onnx(Step(QRNN(5, 7, num_layers=2)), example, (({0: B}, {1: B}),), other)
    assert "Scan" not in nodes


def test_decompositions_leave_core_aten_and_scan() -> None:
    check_decomposes(QRNN(5, 7, num_layers=2, window=2), (torch.randn(9, 3, 5),), ROWS, decompositions())


def test_a_compiled_package_runs_without_python(tmp_path: Path) -> None:
    check_runs_without_python(QRNN(5, 7, num_layers=2, window=2), (torch.randn(9, 3, 5),), _C.__file__, tmp_path)
