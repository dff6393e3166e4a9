"""Out of Python: ONNX in onnxruntime, core ATen, and compiled packages in a C++ program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mingru import MinConv2dGRU, MinGRU, MinLSTM, decompositions, reference
from mingru._ops import _C
from rnnkit_common.testing.exported import Step, check_decomposes, check_onnx, check_runs_without_python
from torch import nn

pytestmark = pytest.mark.slow

B, T = torch.export.Dim("B", min=1, max=64), torch.export.Dim("T", min=1, max=4096)
ROWS = ({0: B, 1: T},)


@pytest.mark.parametrize(
    "model",
    [
        MinGRU(5, 7, num_layers=2),
        MinGRU(5, 7, num_layers=2, bidirectional=True, residual=True, norm=True),
        MinLSTM(5, 7, activation="tanh"),
    ],
    ids=["two-layers", "bidirectional", "minLSTM"],
)
def test_onnx_of_any_batch_and_length(model: nn.Module) -> None:
    nodes = check_onnx(model, (torch.randn(3, 9, 5),), ROWS, (torch.randn(1, 20, 5),), (torch.randn(2, 1, 5),))
    assert nodes["Scan"] <= 4


def test_onnx_of_images() -> None:
    model = MinConv2dGRU(2, [3, 4], kernel_sizes=3)
    check_onnx(model, (torch.randn(3, 4, 2, 7, 7),), ROWS, (torch.randn(1, 6, 2, 7, 7),))


def test_onnx_of_images_of_any_size() -> None:
    height, width = (torch.export.Dim(name, min=4, max=64) for name in ("height", "width"))
    shapes = ({0: B, 1: T, 3: height, 4: width},)
    model = MinConv2dGRU(2, [3, 4], kernel_sizes=3, paddings=1)
    check_onnx(model, (torch.randn(3, 4, 2, 7, 8),), shapes, (torch.randn(1, 6, 2, 10, 5),))


def test_onnx_of_nothing() -> None:
    check_onnx(MinGRU(5, 7), (torch.randn(3, 0, 5),), ({0: B},), (torch.randn(2, 0, 5),))


def test_the_reference_is_compiled() -> None:
    """As plain PyTorch: where a module's part is replaced, and torch.compile sees what stands in the op's place."""
    planes = [torch.randn(2, 5, 4), torch.randn(2, 5, 4)]
    compiled = torch.compile(reference.scan, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(planes, torch.zeros(2, 4)), reference.scan(planes, torch.zeros(2, 4)))


def test_onnx_with_states_lengths_and_resets() -> None:
    def arguments(batch: int, steps: int) -> tuple[Any, ...]:
        lengths = torch.randint(0, steps + 1, (batch,))
        return torch.randn(batch, steps, 5), torch.randn(2, batch, 1, 7), lengths, torch.rand(batch, steps) < 0.3

    shapes = ({0: B, 1: T}, {1: B}, {0: B}, {0: B, 1: T})
    check_onnx(MinGRU(5, 7, bidirectional=True), arguments(3, 9), shapes, arguments(2, 14), arguments(1, 3))


def test_onnx_of_a_step_is_a_loop_of_nothing() -> None:
    shapes = (({0: B}, {1: B}),)
    nodes = check_onnx(
        Step(MinGRU(5, 7, num_layers=2)),
        (torch.randn(3, 5), torch.randn(2, 3, 1, 7)),
        shapes,
        (torch.randn(1, 5), torch.randn(2, 1, 1, 7)),
    )
    assert "Scan" not in nodes


def test_decompositions_leave_core_aten_and_scan() -> None:
    check_decomposes(MinGRU(5, 7, num_layers=2), (torch.randn(3, 9, 5),), ROWS, decompositions())


def test_a_compiled_package_runs_without_python(tmp_path: Path) -> None:
    check_runs_without_python(MinGRU(5, 7, num_layers=2), (torch.randn(3, 9, 5),), _C.__file__, tmp_path)
