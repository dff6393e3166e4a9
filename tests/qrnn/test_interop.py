"""opcheck, torch.compile, torch.export, TorchScript, autocast, low precision, and DistributedDataParallel."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from qrnn import QRNN, ForgetMult, QRNNLayer, fastai
from qrnn._ops import POOLINGS
from rnnkit_common.testing import check_compile, check_distributed, check_op
from torch import nn

MODULES = {
    "QRNN": (lambda: QRNN(3, 8, num_layers=2), lambda: (torch.randn(9, 2, 3),)),
    "QRNN-state": (lambda: QRNN(3, 8, 2, window=3), lambda: (torch.randn(9, 2, 3), torch.randn(2, 2, 8))),
    "QRNN-both": (
        lambda: QRNN(3, 8, 2, bidirectional=True, batch_first=True, window=2, pooling="ifo"),
        lambda: (torch.randn(2, 9, 3), None, torch.tensor([9, 4])),
    ),
    "QRNN-unbatched": (lambda: QRNN(3, 8, layers=[QRNNLayer(3, 5), QRNNLayer(5, 8)]), lambda: (torch.randn(9, 3),)),
    "fastai": (lambda: fastai.QRNN(3, 8, 2, bidirectional=True), lambda: (torch.randn(2, 9, 3),)),
    "QRNNLayer": (lambda: QRNNLayer(3, 8, output_gate=False), lambda: (torch.randn(9, 2, 3), torch.randn(2, 8))),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "planes", "time-major"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_opcheck(pooling: str, layout: str) -> None:
    torch.manual_seed(0)
    total = len(POOLINGS[pooling])
    count = 1 if layout == "packed" else total
    planes = [torch.randn(2, 20, 4 * total // count, requires_grad=True) for _ in range(count)]
    if layout == "time-major":
        planes = [p.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for p in planes]
    h0, lengths = (torch.randn(2, 4, requires_grad=True), torch.tensor([20, 7])) if layout == "planes" else (None, None)
    seed = torch.tensor([3]) if pooling not in ("linear", "mult") and layout == "packed" else None
    ops, options = torch.ops.rnnkit_qrnn, (pooling, 0.3, 1.0, "forward")
    check_op(ops.scan, [planes, h0, lengths, None, seed, *options, True])
    _, _, carries = ops.scan(planes, h0, lengths, None, seed, *options, True)
    planes = [p.detach() for p in planes]
    grads = [torch.randn(2, 20, 4), torch.randn(2, 4)]
    check_op(ops.scan_backward, [*grads, planes, carries.detach(), None, lengths, None, seed, *options])
    x, weight = torch.randn(2, 20, 3, requires_grad=True), torch.randn(4 * total, 3, requires_grad=True)
    bias = torch.randn(4 * total, requires_grad=True) if layout == "planes" else None
    for batch_first in (True, False):
        sequences = x if batch_first else x.detach().transpose(0, 1).requires_grad_()
        check_op(ops.layer, [sequences, weight, bias, h0, lengths, None, seed, *options, batch_first, True])


@pytest.mark.slow
def test_compile_with_inductor_and_dynamic_shapes() -> None:
    torch.manual_seed(0)
    rnn = QRNN(3, 8, num_layers=2, window=2)
    check_compile(rnn, (torch.randn(9, 2, 3),), backend="inductor", dynamic=True)
    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps in (5, 17, 33):
        x = torch.randn(steps, 2, 3)
        torch.testing.assert_close(compiled(x)[0], rnn(x)[0])


def test_compiled_zoneout_and_saved_inputs() -> None:
    """What is drawn differs from call to call, and what is saved is seen by the next."""
    torch.manual_seed(0)
    rnn = QRNN(3, 8, zoneout=0.5)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    x = torch.randn(9, 2, 3)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    layer = QRNNLayer(3, 8, window=3, save_prev_x=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    pieces = [compiled(piece)[0] for piece in x.split(3)]
    layer.reset()
    torch.testing.assert_close(pieces, [layer(piece)[0] for piece in x.split(3)])


def test_export_with_any_length() -> None:
    rnn = QRNN(3, 8, window=2)
    steps = torch.export.Dim("steps", min=2, max=4096)
    program = torch.export.export(rnn, (torch.randn(9, 2, 3),), dynamic_shapes={"X": {0: steps}})
    x = torch.randn(40, 2, 3)
    torch.testing.assert_close(program.module()(x)[0], rnn(x)[0])


def test_scripted_saved_inputs_zoneout_and_errors() -> None:
    torch.manual_seed(0)
    layer = QRNNLayer(3, 8, window=3, save_prev_x=True, zoneout=0.2).eval()
    x = torch.randn(9, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted, mult = torch.jit.script(layer), torch.jit.script(ForgetMult())
    torch.testing.assert_close([scripted(p)[0] for p in x.split(3)], [layer(p)[0] for p in x.split(3)])
    scripted.train()
    scripted(x)[0].sum().backward()
    torch.testing.assert_close(mult(x, x), ForgetMult()(x, x))
    with pytest.raises(torch.jit.Error, match="expected shape"):
        scripted(torch.randn(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [1, 3])
def test_autocast_runs_in_the_projections_dtype(dtype: torch.dtype, window: int) -> None:
    torch.manual_seed(0)
    rnn = QRNN(3, 8, num_layers=2, window=window)
    x = torch.randn(9, 2, 3)
    expected, _ = rnn(x)
    with torch.autocast("cpu", dtype=dtype):
        out, hidden = rnn(x, torch.zeros(2, 2, 8))
    assert out.dtype == dtype
    assert hidden.dtype == torch.float32
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    out.float().square().sum().backward()
    assert rnn.layers[0].linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_in_other_dtypes(dtype: torch.dtype) -> None:
    """The state that comes out in float32 goes in again; so does one in the module's own dtype."""
    torch.manual_seed(0)
    rnn = QRNN(3, 8, num_layers=2, window=2)
    x = torch.randn(9, 2, 3)
    expected, _ = rnn(x)
    out, hidden = rnn.to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert hidden.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(rnn(x.to(dtype), hidden)[0], rnn(x.to(dtype), hidden.to(dtype))[0], rtol=0.02, atol=0.02)


def distributed_example() -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    return QRNN(4, 6, 2, window=2, bidirectional=True), torch.randn(9, 4, 4), 1


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    check_distributed(distributed_example, tmp_path)
