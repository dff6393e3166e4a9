"""Out of Python: ONNX in onnxruntime, core ATen, and compiled packages in a C++ program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rnnkit_common.testing.exported import Step, check_decomposes, check_onnx, check_runs_without_python
from sru import SRU, SRUpp, decompositions
from sru._ops import _C
from torch import nn

pytestmark = pytest.mark.slow

B, T = torch.export.Dim("B", min=1, max=64), torch.export.Dim("T", min=1, max=4096)
ROWS = ({0: T, 1: B},)


@pytest.mark.parametrize(
    "model",
    [
        SRU(5, 7, num_layers=2, bidirectional=True),
        SRU(7, 7, num_layers=2, v1=True, rescale=True, layer_norm=True, use_tanh=True),
        SRUpp(8, 8, 4, num_layers=2),
    ],
    ids=["two-layers", "v1", "srupp"],
)
def test_onnx_of_any_batch_and_length(model: nn.Module) -> None:
    width = model.input_size  # type: ignore[attr-defined]
    check_onnx(model, (torch.randn(9, 3, width),), ROWS, (torch.randn(20, 1, width),), (torch.randn(1, 2, width),))


def test_onnx_with_states_and_padding() -> None:
    shapes = ({0: T, 1: B}, {1: B}, {0: T, 1: B})
    example, other = ((torch.randn(t, b, 5), torch.randn(2, b, 14), torch.rand(t, b) < 0.3) for t, b in ((9, 3), (20, 1)))
    check_onnx(SRU(5, 7, num_layers=2, bidirectional=True), example, shapes, other)


def test_onnx_of_a_step_is_a_loop_of_nothing() -> None:
    example, other = ((torch.randn(b, 5), torch.randn(2, b, 7)) for b in (3, 1))
    nodes = check_onnx(Step(SRU(5, 7, num_layers=2)), example, (({0: B}, {1: B}),), other)
    assert "Scan" not in nodes


def test_decompositions_leave_core_aten_and_scan() -> None:
    check_decomposes(SRU(5, 7, num_layers=2), (torch.randn(9, 3, 5),), ROWS, decompositions())


def test_a_compiled_package_runs_without_python(tmp_path: Path) -> None:
    check_runs_without_python(SRU(5, 7, num_layers=2), (torch.randn(9, 3, 5),), _C.__file__, tmp_path)
