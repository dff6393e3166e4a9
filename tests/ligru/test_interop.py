"""opcheck, torch.compile, torch.export, TorchScript, autocast, low precision, and DistributedDataParallel."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from ligru import LiGRU, LiGRU_Layer, SLiGRU, SLiGRU_Layer, functional
from rnnkit_common.testing import check_compile, check_distributed, check_op
from torch import nn

SHAPE = (2, 9, 3)
MODULES = {
    "LiGRU": (lambda: LiGRU(4, SHAPE, num_layers=2), lambda: (torch.randn(2, 9, 3),)),
    "LiGRU-eval": (lambda: LiGRU(4, SHAPE).eval(), lambda: (torch.randn(2, 9, 3), torch.randn(1, 2, 4))),
    "SLiGRU-both-ways": (
        lambda: SLiGRU(4, SHAPE, num_layers=2, bidirectional=True, ff_normalization="layernorm"),
        lambda: (torch.randn(2, 9, 3), torch.randn(4, 2, 4), torch.tensor([9, 4])),
    ),
    "SLiGRU-affine": (
        lambda: SLiGRU(4, SHAPE, recurrent_elementwise_affine=True, nonlinearity="tanh"),
        lambda: (torch.randn(2, 9, 3), None, torch.tensor([9, 4])),
    ),
    "LiGRU_Layer": (lambda: LiGRU_Layer(3, 4, nonlinearity="sin"), lambda: (torch.randn(2, 9, 3),)),
    "SLiGRU_Layer": (lambda: SLiGRU_Layer(3, 4), lambda: (torch.randn(2, 9, 3), torch.randn(2, 4))),
}


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_opcheck(normalize: bool, full: bool) -> None:
    torch.manual_seed(0)
    directions = 2 if full else 1
    inputs = [torch.randn(2, 7, 8, requires_grad=True), torch.randn(8, 4, requires_grad=True)]
    h0 = mask = lengths = reset = None
    if full:
        h0, mask = torch.randn(2, 2, 4, requires_grad=True), torch.rand(2, 2, 4)
        lengths, reset = torch.tensor([7, 4]), torch.zeros(2, 7, dtype=torch.bool)
        reset[0, 3] = True
        if normalize:
            inputs += [torch.randn(8, requires_grad=True), torch.randn(8, requires_grad=True)]
    ops = torch.ops.rnnkit_ligru
    options = ("tanh", full, normalize, 1e-5)
    check_op(ops.recurrence, [inputs, h0, lengths, reset, mask, *options, True])
    check_op(ops.recurrence, [[t.detach() for t in inputs], None, lengths, reset, mask, *options, False])
    out, _, *kept = ops.recurrence(inputs, h0, lengths, reset, mask, *options, True)
    grads = [torch.randn(2, 7, 4 * directions), torch.randn(directions, 2, 4)]
    saved = [t.detach() for t in (out, *kept)]
    given = [[t.detach() for t in inputs], *saved, None if h0 is None else h0.detach()]
    check_op(ops.recurrence_backward, [*grads, *given, lengths, reset, mask, *options])


@pytest.mark.slow
def test_compile_with_inductor_and_dynamic_shapes() -> None:
    torch.manual_seed(0)
    net = SLiGRU(4, SHAPE, num_layers=2, bidirectional=True, nonlinearity="tanh").eval()
    check_compile(net, (torch.randn(2, 9, 3),), backend="inductor", dynamic=True)
    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps in (5, 17, 33):
        x = torch.randn(2, steps, 3)
        torch.testing.assert_close(compiled(x)[0], net(x)[0])


def test_compiled_dropout_draws_anew() -> None:
    torch.manual_seed(0)
    compiled = torch.compile(LiGRU(4, SHAPE, dropout=0.5), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 9, 3)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])


def test_export_with_any_length() -> None:
    net = LiGRU(4, SHAPE, num_layers=2).eval()
    steps = torch.export.Dim("steps", min=2, max=4096)
    program = torch.export.export(net, (torch.randn(2, 9, 3),), dynamic_shapes={"x": {1: steps}})
    x = torch.randn(2, 40, 3)
    torch.testing.assert_close(program.module()(x)[0], net(x)[0])


def test_scripted_errors_and_dropout() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(SLiGRU(4, SHAPE, num_layers=2, dropout=0.5, dropout_between=0.5))
    x = torch.randn(2, 9, 3)
    assert not torch.equal(scripted(x)[0], scripted(x)[0])
    scripted.eval()
    assert torch.equal(scripted(x)[0], scripted(x)[0])
    with pytest.raises(torch.jit.Error, match="expected shape"):
        scripted(torch.randn(2, 9, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LiGRU", "SLiGRU-both-ways", "SLiGRU-affine"])
def test_autocast_runs_in_its_dtype_with_states_in_float32(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, inputs = MODULES[name]
    net, arguments = make(), inputs()
    expected, _ = net(*arguments)
    with torch.autocast("cpu", dtype=dtype):
        out, h = net(*arguments)
    assert (out.dtype, h.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("cls", [LiGRU, SLiGRU])
def test_modules_in_other_dtypes(cls: type[nn.Module], dtype: torch.dtype) -> None:
    """The state that comes out in float32 goes in again; so does one in the module's own dtype."""
    torch.manual_seed(0)
    net = cls(4, SHAPE, num_layers=2, nonlinearity="tanh").eval()
    x = torch.randn(2, 9, 3)
    expected, _ = net(x)
    net = net.to(dtype)
    out, h = net(x.to(dtype))
    assert out.dtype == dtype
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(net(x.to(dtype), h)[0], net(x.to(dtype), h.to(dtype))[0], rtol=0.05, atol=0.05)
    net.train()(x.to(dtype), lengths=torch.tensor([9, 3]))[0].float().sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in net.parameters())


def test_the_functional_form_expands_what_it_is_given() -> None:
    torch.manual_seed(0)
    g, u, h0, mask = torch.randn(2, 5, 8), torch.randn(8, 4), torch.randn(4), torch.rand(2, 1, 4)
    expected = functional.recurrence(g, u, h0.expand(2, 2, 4), mask.expand(2, 2, 4), None, "tanh", True)
    torch.testing.assert_close(functional.recurrence(g, u, h0, mask, None, "tanh", True), expected)


def distributed_example() -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    return SLiGRU(6, (4, 9, 4), num_layers=2, bidirectional=True, ff_normalization="layernorm"), torch.randn(4, 9, 4), 0


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    check_distributed(distributed_example, tmp_path)
