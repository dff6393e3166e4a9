"""opcheck, torch.compile, torch.export, TorchScript, autocast and low precision."""

from __future__ import annotations

import warnings

import pytest
import torch
from mingru import Bidirectional, MinConv2dGRU, MinConv2dGRUCell, MinGRU, MinGRUCell, MinLSTM, functional
from rnnkit_common.testing import check_compile, check_op
from torch.autograd import forward_ad

MODULES = {
    "MinGRU": (lambda: MinGRU(3, 8, num_layers=2, residual=True, norm=True), lambda: (torch.randn(2, 9, 3),)),
    "MinGRU-state": (lambda: MinGRU(3, [8, 5]), lambda: (torch.randn(2, 9, 3), torch.randn(2, 2, 1, 8))),
    "MinGRU-masks": (
        lambda: MinGRU(3, 8, bidirectional=True, batch_first=False),
        lambda: (torch.randn(9, 2, 3), None, torch.tensor([9, 4]), torch.rand(9, 2) < 0.2),
    ),
    "MinLSTM": (lambda: MinLSTM(3, 8, activation="tanh"), lambda: (torch.randn(2, 9, 3),)),
    "MinGRUCell": (lambda: MinGRUCell(3, 8), lambda: (torch.randn(2, 9, 3), [torch.randn(2, 1, 8)])),
    "ListMinGRU": (lambda: MinGRU(input_size=3, hidden_sizes=[8, 5], residual=True), lambda: (torch.randn(2, 9, 3),)),
    "Bidirectional": (lambda: Bidirectional(MinGRU(input_size=3, hidden_sizes=8)), lambda: (torch.randn(2, 9, 3),)),
    "MinConv2dGRU": (
        lambda: MinConv2dGRU(3, [4, 4], 3, paddings=1, residual=True, norm=True),
        lambda: (torch.randn(2, 4, 3, 5, 5),),
    ),
    "MinConv2dGRUCell": (lambda: MinConv2dGRUCell(3, 4, 3), lambda: (torch.randn(2, 4, 3, 5, 5),)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gates", "layout", "masks"), [(1, "packed", False), (2, "packed", True), (2, "planes", False), (1, "time-major", True)]
)
def test_opcheck(gates: int, layout: str, masks: bool) -> None:
    torch.manual_seed(0)
    count = 1 if layout == "packed" else gates + 1
    shape = (2, 20, 4 * (gates + 1) // count)
    planes = [torch.randn(shape, requires_grad=True) for _ in range(count)]
    if layout == "time-major":
        planes = [p.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for p in planes]
    h0 = torch.randn(2, 4, requires_grad=True) if masks else None
    lengths, reset = (torch.tensor([20, 7]), torch.rand(2, 20) < 0.1) if masks else (None, None)
    ops, cell = torch.ops.rnnkit_mingru, functional.cell_name(gates)
    check_op(ops.scan, [planes, h0, lengths, reset, cell, "g", 0.5, "forward", True])
    _, _, carries = ops.scan(planes, h0, lengths, reset, cell, "g", 0.5, "forward", True)
    grad_out, grad_last = torch.randn(2, 20, 4), torch.randn(2, 4) if masks else None
    planes = [p.detach() for p in planes]
    check_op(
        ops.scan_backward, [grad_out, grad_last, planes, carries.detach(), None, lengths, reset, cell, "g", 0.5, "forward"]
    )
    x, weight = torch.randn(2, 20, 3, requires_grad=True), torch.randn(4 * (gates + 1), 3, requires_grad=True)
    bias = torch.randn(4 * (gates + 1), requires_grad=True) if masks else None
    for batch_first in (True, False):
        sequences = x if batch_first else x.detach().transpose(0, 1).requires_grad_()
        check_op(ops.layer, [sequences, weight, bias, h0, lengths, reset, cell, "g", 0.5, "forward", batch_first, True])
    check_op(ops.step, [torch.randn(2, 4 * (gates + 1)), h0.detach() if masks else None, cell, "g", 0.5])
    weights, biases = [weight.detach()], [] if bias is None else [bias.detach()]
    check_op(
        ops.stack_step, [torch.randn(2, 3), weights, biases, h0.detach()[None, :, None] if masks else None, cell, "g", 0.5]
    )


def test_an_op_called_by_itself_refuses_forward_mode() -> None:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn(1, 2, 8), torch.randn(1, 2, 8))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.ops.rnnkit_mingru.scan([dual])


@pytest.mark.slow
def test_compile_with_inductor_and_dynamic_shapes() -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 8, num_layers=2, residual=True)
    check_compile(rnn, (torch.randn(2, 9, 3),), backend="inductor", dynamic=True)
    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps in (5, 17, 33):
        x = torch.randn(2, steps, 3)
        torch.testing.assert_close(compiled(x)[0], rnn(x)[0])


def test_export_with_any_length() -> None:
    rnn = MinGRU(3, 8)
    steps = torch.export.Dim("steps", min=2, max=4096)
    program = torch.export.export(rnn, (torch.randn(2, 9, 3),), dynamic_shapes={"x": {1: steps}})
    x = torch.randn(2, 40, 3)
    torch.testing.assert_close(program.module()(x)[0], rnn(x)[0])


def test_scripted_steps_and_errors() -> None:
    rnn = MinGRU(3, 8, num_layers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(rnn)
    x, h = torch.randn(2, 3), torch.randn(2, 2, 1, 8)
    torch.testing.assert_close(scripted.step(x, h), rnn.step(x, h))
    with pytest.raises(torch.jit.Error, match="expected shape"):
        scripted(torch.randn(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_the_scan_in_the_projections_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 8, num_layers=2, residual=True)
    x = torch.randn(2, 9, 3)
    with torch.autocast("cpu", dtype=dtype):
        out, h = rnn(x, torch.randn(2, 2, 1, 8))
    assert out.dtype == dtype
    assert h.dtype == torch.float32
    out.float().square().sum().backward()
    assert rnn.layers[0].gate_hidden.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_in_other_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rnn = MinGRU(3, 8, num_layers=2, residual=True, norm=True)
    x = torch.randn(2, 9, 3)
    expected, _ = rnn(x)
    out, h = rnn.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
