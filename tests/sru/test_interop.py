"""opcheck, torch.compile, torch.export, TorchScript, autocast, low precision, and DistributedDataParallel."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from rnnkit_common.testing import check_compile, check_distributed, check_op
from sru import SRU, SRUCell, SRUpp, SRUppAttention, SRUppProjectedLinear
from torch import nn

MODULES = {
    "SRU": (lambda: SRU(8, 8), lambda: (torch.randn(9, 2, 8),)),
    "k4-state": (lambda: SRU(3, 8, use_tanh=True), lambda: (torch.randn(9, 2, 3), torch.randn(2, 2, 8))),
    "both-ways": (
        lambda: SRU(3, 8, bidirectional=True, batch_first=True, rescale=True, nn_rnn_compatible_return=True),
        lambda: (torch.randn(2, 9, 3), None, None, torch.tensor([9, 4])),
    ),
    "mask": (
        lambda: SRU(8, 8, layer_norm=True, use_relu=True),
        lambda: (torch.randn(9, 2, 8), None, torch.rand(9, 2) < 0.3),
    ),
    "projection": (
        lambda: SRU(8, 8, projection_size=2, normalize_after=True, layer_norm=True),
        lambda: (torch.randn(9, 2, 8),),
    ),
    "first-version": (lambda: SRU(3, 8, v1=True, proj_input_to_hidden_first=True), lambda: (torch.randn(9, 2, 3),)),
    "no-skip": (lambda: SRU(3, 8, has_skip_term=False), lambda: (torch.randn(9, 2, 3),)),
    "SRUCell": (lambda: SRUCell(8, 8), lambda: (torch.randn(9, 2, 8), torch.randn(2, 8))),
    "SRUCell-step": (lambda: SRUCell(3, 8), lambda: (torch.randn(2, 3), torch.randn(2, 8))),
    "custom": (lambda: SRUCell(3, 8, custom_m=WithV()), lambda: (torch.randn(9, 2, 3),)),
    "SRUpp": (
        lambda: attending(SRUpp(8, 8, 4, num_heads=2, layer_norm=True, attention_every_n_layers=2)),
        lambda: (torch.randn(9, 2, 8), torch.randn(2, 2, 8), torch.rand(9, 2) < 0.3),
    ),
    "SRUpp-causal": (
        lambda: attending(SRUpp(3, 8, 4, 1, bidirectional=True, normalize_after=True, layer_norm=True)),
        lambda: (torch.randn(9, 2, 3), None, None, torch.ones(9, 9).triu(1) * -1e4),
    ),
    "SRUppProjectedLinear": (lambda: SRUppProjectedLinear(8, 12, 4), lambda: (torch.randn(9, 2, 8),)),
    "SRUppAttention": (lambda: SRUppAttention(8, 12, 4, rezero_init_alpha=0.7), lambda: (torch.randn(9, 2, 8),)),
}


class Traceable(nn.Module):
    """SRU++ without the dictionary that it returns, too."""

    def __init__(self, rnn: SRUpp) -> None:
        super().__init__()
        self.rnn = rnn
        self.hidden_size = rnn.hidden_size

    def forward(
        self,
        x: torch.Tensor,
        c0: torch.Tensor | None = None,
        pad: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h, c, _ = self.rnn(x, c0, pad, mask)
        return h, c


def attending(rnn: SRUpp) -> Traceable:
    """One whose attention counts, as it does once it has learned."""
    for name, parameter in rnn.named_parameters():
        if name.endswith("alpha"):
            nn.init.constant_(parameter, 0.7)
    return Traceable(rnn)


class WithV(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Linear(3, 32), nn.Linear(3, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.u(x), self.v(x)

    def reset_parameters(self) -> None:
        self.u.reset_parameters()
        self.v.reset_parameters()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peephole", "skip", "layout"),
    [
        ("none", "input", "contiguous"),
        ("parameter", "input", "time-major"),
        ("parameter", "column", "contiguous"),
        ("plane", "input", "contiguous"),
        ("plane", "none", "time-major"),
    ],
)
def test_opcheck(peephole: str, skip: str, layout: str) -> None:
    torch.manual_seed(0)
    widths = [16 if skip == "column" else 12, *([4] if skip == "input" else [])]
    widths = [4, *widths, 4] if peephole == "plane" else widths
    shape = (20, 2) if layout == "time-major" else (2, 20)
    inputs = [torch.randn(*shape, w) for w in widths]
    inputs = [(t.transpose(0, 1) if layout == "time-major" else t).requires_grad_() for t in inputs]
    inputs.append(torch.randn(4 if peephole == "parameter" else 2, 4, requires_grad=True))
    c0, lengths = (torch.randn(2, 4, requires_grad=True), torch.tensor([20, 7])) if layout == "contiguous" else (None, None)
    pad, mask, scale = torch.rand(2, 20) < 0.3, torch.rand(2, 4), torch.rand(1)
    kind = ("tanh", skip, peephole, "both")
    ops = torch.ops.rnnkit_sru
    check_op(ops.scan, [inputs, c0, lengths, None, pad, mask, scale, *kind, True])
    _, _, carries = ops.scan(inputs, c0, lengths, None, pad, mask, scale, *kind, True)
    inputs = [t.detach() for t in inputs]
    grads = [torch.randn(*shape, 4), torch.randn(2, 4)]
    grads[0] = grads[0].transpose(0, 1) if layout == "time-major" else grads[0]
    check_op(ops.scan_backward, [*grads, inputs, carries.detach(), None, lengths, None, pad, mask, scale, *kind])
    if skip == "input" and peephole != "plane":
        weight = torch.randn(4, 12, requires_grad=True)
        bias = inputs[2][:2].flatten().requires_grad_()
        weight_c = inputs[2][2:].flatten().requires_grad_() if peephole == "parameter" else None
        for batch_first, save in ((True, True), (False, True), (True, False)):
            x = inputs[1] if batch_first else inputs[1].transpose(0, 1)
            given = [x, weight, bias, weight_c, c0]
            given = [t if t is None else t.detach().requires_grad_(save) for t in given]
            check_op(ops.layer, [*given, lengths, None, pad, mask, scale, "tanh", "both", batch_first, save])
        weights_c = [] if weight_c is None else [weight_c.detach()]
        rows = (torch.randn(2, 4), [weight.detach()], [bias.detach()], weights_c)
        check_op(ops.stack_step, [*rows, [scale], None if c0 is None else c0.detach()[None], True, "tanh"])


@pytest.mark.parametrize("size", [4, 300])
def test_opcheck_of_products(size: int) -> None:
    x, weight = torch.randn(5, size, requires_grad=True), torch.randn(size, 3 * size, requires_grad=True)
    check_op(torch.ops.rnnkit_sru.product, [x, weight])
    for shapes in ([(3, 600), (500, 700)], [(3,), (3, 7)]):
        with pytest.raises(RuntimeError, match="expected shapes"):
            torch.ops.rnnkit_sru.product(*(torch.randn(shape) for shape in shapes))


@pytest.mark.slow
def test_compile_with_inductor_and_dynamic_shapes() -> None:
    torch.manual_seed(0)
    rnn = SRU(3, 8, bidirectional=True)
    check_compile(rnn, (torch.randn(9, 2, 3),), backend="inductor", dynamic=True)
    compiled = torch.compile(rnn, fullgraph=True, dynamic=True, backend="aot_eager")
    for steps in (5, 17, 33):
        x = torch.randn(steps, 2, 3)
        torch.testing.assert_close(compiled(x)[0], rnn(x)[0])


def test_compiled_dropout_draws_anew() -> None:
    torch.manual_seed(0)
    compiled = torch.compile(SRU(8, 8, dropout=0.5), fullgraph=True, backend="aot_eager")
    x = torch.randn(9, 2, 8)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])


def test_export_with_any_length() -> None:
    rnn = SRU(8, 8)
    steps = torch.export.Dim("steps", min=2, max=4096)
    program = torch.export.export(rnn, (torch.randn(9, 2, 8),), dynamic_shapes={"input": {0: steps}})
    x = torch.randn(40, 2, 8)
    torch.testing.assert_close(program.module()(x)[0], rnn(x)[0])


def test_scripted_errors_and_dropout() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(SRU(8, 8, dropout=0.5, rnn_dropout=0.5))
    x = torch.randn(9, 2, 8)
    assert not torch.equal(scripted(x)[0], scripted(x)[0])
    scripted.eval()
    assert torch.equal(scripted(x)[0], scripted(x)[0])
    with pytest.raises(torch.jit.Error, match="expected shape"):
        scripted(torch.randn(9, 2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_16_bits", [False, True])
@pytest.mark.parametrize("size", [3, 8])
def test_autocast_runs_in_the_dtype_that_was_asked_for(size: int, in_16_bits: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rnn = SRU(size, 8, amp_recurrence_fp16=in_16_bits)
    x = torch.randn(9, 2, size)
    expected, _ = rnn(x)
    with torch.autocast("cpu", dtype=dtype):
        h, c = rnn(x, torch.zeros(2, 2, 8))
    assert h.dtype == (dtype if in_16_bits else torch.float32)
    assert c.dtype == torch.float32
    torch.testing.assert_close(h.float(), expected, rtol=0.05, atol=0.05)
    h.float().square().sum().backward()
    assert rnn.rnn_lst[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_modules_in_other_dtypes(dtype: torch.dtype) -> None:
    """The state that comes out in float32 goes in again; so does one in the module's own dtype."""
    torch.manual_seed(0)
    rnn = SRU(3, 8, rescale=True)
    x = torch.randn(9, 2, 3)
    expected, _ = rnn(x)
    h, c = rnn.to(dtype)(x.to(dtype))
    assert h.dtype == dtype
    assert c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(h.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(rnn(x.to(dtype), c)[0], rnn(x.to(dtype), c.to(dtype))[0], rtol=0.05, atol=0.05)


def distributed_example() -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    return SRU(4, 6, bidirectional=True), torch.randn(9, 4, 4), 1


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    check_distributed(distributed_example, tmp_path)
