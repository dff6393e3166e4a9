"""opcheck, torch.compile, torch.export, autocast, several threads and processes."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing import check_compile, check_distributed, check_op, check_script
from rnnt_loss import MultiblankRNNTLoss, PrunedRNNTLoss, RNNTLoss, TDTLoss
from rnnt_loss.modules import Joiner
from torch import nn

from .problems import Problem

PROBLEM = Problem.of(6, 3, 5, batch=2, dtype=torch.float32)
OPS = torch.ops.rnnkit_rnnt_loss


def lattice_inputs() -> list[torch.Tensor]:
    return [torch.randn(2, 1, 6, 3, requires_grad=True), torch.randn(2, 1, 6, 4, requires_grad=True)]


@pytest.mark.slow
def test_opcheck_lattice() -> None:
    check_op(OPS.lattice, [*lattice_inputs(), [0], [1], None, None, False, False, True, 1.0])
    with_options = [[0], [1], PROBLEM.boundary, None, True, True, False, 1.0]
    check_op(OPS.lattice, [*(t.detach() for t in lattice_inputs()), *with_options])


def test_opcheck_joint_scores() -> None:
    logits = PROBLEM.logits.detach().requires_grad_()
    symbols, boundary = PROBLEM.symbols, PROBLEM.boundary
    scoring = [[0, 2], "softmax", 1, 0.1]  # two blanks, one duration, smoothed
    check_op(OPS.joint_scores, [logits, symbols, boundary, None, None, 0, *scoring, -1.0, 1.0, False])
    begin = torch.zeros(2, 6, dtype=torch.int64)
    check_op(OPS.joint_scores, [logits[:, :, :2].detach(), symbols, boundary, begin, None, 0, [0], "hat"])
    _, _, norm = OPS.joint_scores(logits.detach(), symbols, boundary, None, None, 0, *scoring)
    grads = [torch.randn(2, 6, 3), torch.randn(2, 3, 6, 4)]
    check_op(OPS.joint_scores_backward, [*grads, logits.detach(), symbols, norm, boundary, None, None, *scoring])
    clean = logits.detach().nan_to_num()
    check_op(OPS.joint_scores_backward_, [*grads, clean, symbols, norm, boundary, None, None, None, 0, 0, 0, *scoring])
    scores = [torch.zeros(2, 6, 3), torch.zeros(2, 3, 6, 4), torch.zeros(2, 6, 4)]
    check_op(OPS.joint_scores_, [clean.flatten(0, 2), symbols.clamp(min=0), *scores, None, None, None, 0, 12, 0, *scoring])


def test_opcheck_the_others() -> None:
    lm, am = (t.nan_to_num().requires_grad_() for t in (PROBLEM.lm, PROBLEM.am))
    symbols, boundary = PROBLEM.symbols, PROBLEM.boundary
    check_op(OPS.simple_scores, [lm, am, symbols, boundary, 1])
    _, _, *kept = OPS.simple_scores(lm.detach(), am.detach(), symbols, boundary, 1)
    grads = [torch.randn(2, 6, 3), torch.randn(2, 6, 4)]
    check_op(OPS.simple_scores_backward, [*grads, lm.detach(), am.detach(), symbols, *kept, boundary, 1])
    check_op(OPS.prune_ranges, [torch.rand(2, 6, 3), torch.rand(2, 6, 4), boundary, 2, 1])
    check_op(OPS.join_, [torch.zeros(20, 5), am.detach(), lm.detach(), boundary, None, None, 2, 5, 0])
    sums = [torch.zeros(2, 6, 5), torch.zeros(2, 4, 5)]
    places = torch.arange(48).view(2, 6, 4)
    check_op(OPS.join_backward_, [torch.randn(20, 5), torch.rand(20, 5), boundary, None, places, 2, 6, 7, *sums])
    weight, bias = torch.randn(7, 5, requires_grad=True), torch.randn(7, requires_grad=True)
    for rows_at_once, lengths in ((0, None), (5, boundary)):
        check_op(
            OPS.joiner_scores,
            [am, lm, weight, bias, symbols, boundary, None, lengths, 4, rows_at_once, [1], "softmax", 2, 0.1, 0.0, 1.0],
        )


class Full(nn.Module):
    """A joiner and its loss."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.joiner, self.options = nn.Linear(5, 6), options

    def forward(self, am, lm, symbols, boundary):
        logits = self.joiner(torch.tanh(am[:, :, None] + lm[:, None]))
        return rl.rnnt_loss(logits, symbols, 0, boundary, **self.options)


class Fused(Full):
    def forward(self, am, lm, symbols, boundary):
        return rl.rnnt_loss_fused(am, lm, self.joiner, symbols, 0, boundary, **self.options)


LENGTHS = (torch.tensor([6, 4]), torch.tensor([3, 2]))


def arguments() -> tuple[torch.Tensor, ...]:
    return (PROBLEM.am.nan_to_num(), PROBLEM.lm.nan_to_num(), PROBLEM.symbols, PROBLEM.boundary)


def acts() -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 6, 4, 8), torch.randint(0, 4, (2, 3)), *LENGTHS)


MODULES = {
    "full": (lambda: Full(), arguments),
    "delayed": (lambda: Full(delay_penalty=0.1, rnnt_type="constrained", reduction="none", zero_infinity=True), arguments),
    "pruned": (lambda: PrunedRNNTLoss(5, 5, 8, 6, s_range=2, am_only_scale=0.1), arguments),
    "RNNTLoss": (lambda: RNNTLoss(blank=0, reduction="none"), acts),
    "TDTLoss": (lambda: TDTLoss(5, [0, 2], "none"), acts),
    "MultiblankRNNTLoss": (lambda: MultiblankRNNTLoss(7, [2, 3], "sum"), acts),
    "Joiner": (lambda: Joiner(5, 5, 8, 6), lambda: (torch.randn(2, 6, 1, 5), torch.randn(2, 1, 4, 5))),
}


@pytest.mark.slow
def test_compile_with_inductor_and_dynamic_shapes() -> None:
    torch.manual_seed(0)
    module = Full()
    check_compile(module, arguments(), backend="inductor", dynamic=True)


@pytest.mark.parametrize("loss", ["exact", "TDT", "multi-blank", "pruned"])
def test_one_graph_serves_any_length(loss: str) -> None:
    """More lengths than torch.compile would make graphs of; and torch.export with a dimension of any size."""
    losses = {
        "exact": lambda z, y: rl.rnnt_loss(z, y, 0),
        "TDT": lambda z, y: rl.tdt_loss(z, y, [0, 1, 2], 0),
        "multi-blank": lambda z, y: rl.multiblank_rnnt_loss(z, y, [0, 1], [1, 2]),
        "pruned": lambda z, y: rl.rnnt_loss_pruned(z, y, torch.arange(4).expand(2, z.shape[1], 4), 0),
    }
    torch.compiler.reset()
    compiled = torch.compile(losses[loss], fullgraph=True, dynamic=True, backend="aot_eager")
    symbols = torch.randint(2, 5, (2, 3))
    for frames in range(4, 16):
        logits = torch.randn(2, frames, 4, 8)
        torch.testing.assert_close(compiled(logits, symbols), losses[loss](logits, symbols))


@pytest.mark.parametrize("module", [Fused(), PrunedRNNTLoss(5, 5, 8, 6, s_range=2)], ids=["fused", "pruned"])
def test_exported_for_any_batch(module: nn.Module) -> None:
    batch = torch.export.Dim("batch", min=2)
    given = tuple(t.repeat(2, *[1] * (t.dim() - 1)) for t in arguments())
    exported = torch.export.export(module, given, dynamic_shapes=tuple({0: batch} for _ in given)).module()
    torch.testing.assert_close(exported(*arguments()), module(*arguments()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_losses_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Fused()
    am, lm, symbols, boundary = arguments()
    leaves = [am.requires_grad_(), lm.requires_grad_()]
    expected = module(am, lm, symbols, boundary)
    simple = rl.rnnt_loss_simple(lm, am, symbols, 0, boundary)
    with torch.autocast("cpu", dtype):
        loss = module(am, lm, symbols, boundary)
        assert torch.equal(rl.rnnt_loss_simple(lm, am, symbols, 0, boundary), simple)
        loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-2, atol=0)
    assert all(t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_logits_lose_only_their_own_rounding(dtype: torch.dtype) -> None:
    """The loss of 16-bit logits is that of the same numbers in float32."""
    logits = PROBLEM.logits.to(dtype)
    arguments = (PROBLEM.symbols, 0, PROBLEM.boundary)
    loss = rl.rnnt_loss(logits, *arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, rl.rnnt_loss(logits.float(), *arguments))


def distributed_example() -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.loss = nn.Linear(5, 5), PrunedRNNTLoss(5, 5, 8, 6, s_range=3)

        def forward(self, x):
            symbols, lm = torch.ones(len(x), 3, dtype=torch.int64), torch.ones(len(x), 4, 5)
            simple, pruned = self.loss(self.encoder(x), lm, symbols)
            return simple.new_zeros(1), simple + pruned

    return Model(), torch.randn(4, 7, 5), 0


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    check_distributed(distributed_example, tmp_path)


def test_the_boundary_and_symbols_of_any_integer_type() -> None:
    expected = rl.rnnt_loss(PROBLEM.logits, PROBLEM.symbols, 0, PROBLEM.boundary)
    for dtype in (torch.int32, torch.int16):
        assert torch.equal(rl.rnnt_loss(PROBLEM.logits, PROBLEM.symbols.to(dtype), 0, PROBLEM.boundary.to(dtype)), expected)


def test_strided_and_sliced_logits() -> None:
    logits = PROBLEM.logits.detach()
    expected = rl.rnnt_loss(logits, PROBLEM.symbols, 0, PROBLEM.boundary)
    transposed = logits.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    wider = torch.cat([logits, logits], -1).requires_grad_()
    for given in (transposed, wider[..., :5]):
        loss = rl.rnnt_loss(given, PROBLEM.symbols, 0, PROBLEM.boundary)
        assert torch.equal(loss, expected)
        loss.backward()
    torch.testing.assert_close(wider.grad[..., :5], transposed.grad)
    assert (wider.grad[..., 5:] == 0).all()


def test_nothing_of_the_logits_size_is_kept_beside_them() -> None:
    saved = []
    logits = PROBLEM.logits.detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        rl.rnnt_loss(logits, PROBLEM.symbols, 0, PROBLEM.boundary)
    assert sum(t.numel() for t in saved if t.data_ptr() != logits.data_ptr()) < 6 * logits.numel() / logits.shape[-1] + 20


def test_modules_keep_their_options() -> None:
    loss = RNNTLoss(blank=0, clamp=0.1, reduction="sum")
    assert loss(PROBLEM.logits, PROBLEM.symbols, *LENGTHS).shape == ()


@pytest.mark.parametrize("options", [{}, {"fused_log_softmax": False, "reduction": "sum", "fastemit_lambda": 0.1}], ids=str)
def test_torchaudios_loss_goes_through_torchscript(options: dict) -> None:
    """As torchaudio's does; with gradients, and lengths of int32."""
    loss = RNNTLoss(blank=-1, clamp=0.1, **options)
    logits = PROBLEM.logits.detach().nan_to_num().requires_grad_()
    given = (logits, PROBLEM.symbols.int(), LENGTHS[0].int(), LENGTHS[1].int())
    scripted = check_script(loss, given)
    grads = [torch.autograd.grad(f(*given), logits)[0] for f in (scripted, loss)]
    torch.testing.assert_close(*grads)


def test_symbols_that_change_before_backward_are_refused() -> None:
    """Forward checked them; backward, which reads them again, must not trust that."""
    shared = numpy.ones((2, 3), numpy.int64)
    lm = torch.randn(2, 4, 7, requires_grad=True)
    loss = rl.rnnt_loss_simple(lm, torch.randn(2, 5, 7), torch.from_numpy(shared), 0)
    shared[:] = 10**9
    with pytest.raises(RuntimeError, match="symbols"):
        loss.backward()
