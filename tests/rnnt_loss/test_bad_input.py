"""Bad input is refused in words that name the argument, what was given and what is accepted; it never crashes."""

from __future__ import annotations

import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing import Backend, check_survives
from rnnt_loss import MultiblankRNNTLoss, TDTLoss, nemo
from rnnt_loss.torchaudio import rnnt_loss as torchaudio_loss
from torch import nn

pytestmark = pytest.mark.kernels

X, LM, AM = torch.randn(2, 6, 4, 5), torch.randn(2, 4, 5), torch.randn(2, 6, 5)
Y = torch.randint(0, 5, (2, 3))
PX, PY = torch.rand(2, 3, 7), torch.rand(2, 4, 6)
RANGES = torch.arange(2).expand(2, 6, 2).contiguous()
P = torch.randn(2, 6, 2, 5)
LINEAR = nn.Linear(5, 7)


def bounds(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


GOOD = bounds([0, 0, 3, 6], [0, 0, 3, 6])
ENDS = (torch.tensor([6, 6]), torch.tensor([3, 3]))


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, r"logits: expected shape \(B, T, S \+ 1, C\), got \[6, 4, 5\]", lambda: rl.rnnt_loss(X[0], Y, 0)),
        (ValueError, r"logits: expected shape .*, frames before symbols, for symbols \(B, S\) = \[2, 3\], got \[2, 4, 6, 5\]", lambda: rl.rnnt_loss(X.transpose(1, 2), Y, 0)),
        (TypeError, "logits: expected float64, float32, float16 or bfloat16, got torch.int64", lambda: rl.rnnt_loss(X.long(), Y, 0)),
        (TypeError, "symbols: expected integers, got torch.float32", lambda: rl.rnnt_loss(X, Y.float(), 0)),
        (ValueError, r"symbols: expected values within 0..4, got 5 at \[1, 0\]", lambda: rl.rnnt_loss(X, torch.tensor([[0, 1, 2], [5, 0, 0]]), 0)),
        (ValueError, r"symbols: expected values within 0..4, got -1 at \[0, 1\]", lambda: rl.rnnt_loss_simple(LM, AM, torch.tensor([[0, -1, 2], [0, 0, 0]]), 0)),
        (ValueError, "symbols: expected device cpu, got meta|symbols: expected device cpu or cpu, got meta", lambda: rl.rnnt_loss(X, Y.to("meta"), 0)),
        (ValueError, "termination_symbol: expected a class within 0..4, got 5", lambda: rl.rnnt_loss(X, Y, 5)),
        (ValueError, "termination_symbol: expected a class within 0..4, got -6", lambda: rl.rnnt_loss_simple(LM, AM, Y, -6)),
        (ValueError, r"boundary: expected shape \[2, 4\], got \[2, 3\]", lambda: rl.rnnt_loss(X, Y, 0, GOOD[:, :3])),
        (TypeError, "boundary: expected integers, got torch.float32", lambda: rl.rnnt_loss(X, Y, 0, GOOD.float())),
        (ValueError, r"boundary: expected .* symbols within 0..3 and frames within 0..6, got \[0, 0, 4, 6\] at 1", lambda: rl.rnnt_loss(X, Y, 0, bounds([0, 0, 3, 6], [0, 0, 4, 6]))),
        (ValueError, r"boundary: .* got \[0, 0, 3, 7\] at 0", lambda: rl.rnnt_loss_simple(LM, AM, Y, 0, bounds([0, 0, 3, 7], [0, 0, 3, 6]))),
        (ValueError, r"boundary: .* got \[2, 0, 1, 6\] at 0", lambda: rl.rnnt_loss(X, Y, 0, bounds([2, 0, 1, 6], [0, 0, 3, 6]))),
        (ValueError, r"boundary: .* got \[-1, 0, 1, 6\] at 0", lambda: rl.mutual_information_recursion(PX, PY, bounds([-1, 0, 1, 6], [0, 0, 3, 6]))),
        (ValueError, "rnnt_type: expected one of 'regular', 'modified', 'constrained', got 'fast'", lambda: rl.rnnt_loss(X, Y, 0, rnnt_type="fast")),
        (ValueError, "reduction: expected one of 'none', 'mean', 'sum', got 'avg'", lambda: rl.rnnt_loss(X, Y, 0, reduction="avg")),
        (ValueError, "reduction: expected one of 'none', 'mean', 'sum', got None", lambda: rl.rnnt_loss_simple(LM, AM, Y, 0, reduction=None)),
        (ValueError, "reuse_logits: expected logits that a joiner computed", lambda: rl.rnnt_loss(X.clone().requires_grad_(), Y, 0, reuse_logits=True)),
        (ValueError, r"emission_window: expected shape \[2, 3, 2\], got \[2, 3\]", lambda: rl.rnnt_loss(X, Y, 0, emission_window=Y)),
        (ValueError, r"lm: expected shape \(B, S \+ 1, C\) for am \(B, T, C\) = \[2, 6, 5\], got \[2, 4, 4\]", lambda: rl.rnnt_loss_simple(LM[..., 1:], AM, Y, 0)),
        (TypeError, "lm: expected am's torch.float32, got torch.float64", lambda: rl.rnnt_loss_simple(LM.double(), AM, Y, 0)),
        (ValueError, "lm: expected am's device cpu, got meta", lambda: rl.rnnt_loss_simple(LM.to("meta"), AM, Y, 0)),
        (ValueError, r"am: expected shape \(B, T, C\), got \[6, 5\]", lambda: rl.rnnt_loss_simple(LM, AM[0], Y, 0)),
        (ValueError, r"lm: expected S \+ 1 = 3 rows, the blank's and one for each of the S symbols, got 4", lambda: rl.rnnt_loss_simple(LM, AM, Y[:, 1:], 0)),
        (ValueError, r"lm: expected S \+ 1 = 4 rows, .*, got 3", lambda: rl.rnnt_loss_smoothed(LM[:, 1:], AM, Y, 0, boundary=GOOD)),
        (ValueError, r"lm: expected S \+ 1 = 4 rows, .*, got 3", lambda: rl.rnnt_loss_fused(AM, LM[:, 1:], LINEAR, Y, 0, GOOD)),
        (ValueError, r"lm: expected 2 sequences, as am has, got \[1, 4, 5\]", lambda: rl.rnnt_loss_fused(AM, LM[:1], LINEAR, Y, 0)),
        (ValueError, r"symbols: expected shape \[2, 3\], got \[1, 3\]", lambda: rl.rnnt_loss_fused(AM, LM, LINEAR, Y[:1], 0)),
        (ValueError, r"symbols: expected shape \[2, 3\], got \[1, 3\]", lambda: rl.tdt_loss_fused(AM, LM, LINEAR, Y[:1], [0, 1], 0)),
        (ValueError, r"joiner: expected logits of shape \[2, 6, 4, 'C'\] on cpu, got \[2, 6, 3, 5\]", lambda: rl.rnnt_loss_fused(AM, LM, lambda am, lm: (am + lm)[:, :, 1:], Y, 0)),
        (ValueError, r"joiner: expected logits of .* on cpu, got .* on meta", lambda: rl.rnnt_loss_fused(AM, LM, lambda am, lm: (am + lm).to("meta"), Y, 0)),
        (ValueError, "joiner: expected the classes and 5 durations as its output, got 5", lambda: rl.tdt_loss_fused(AM, LM, lambda am, lm: am + lm, Y, [0, 1, 2, 3, 4], 0)),
        (TypeError, "rows_at_once: expected an int, got 1.5", lambda: rl.rnnt_loss_fused(AM, LM, LINEAR, Y, 0, rows_at_once=1.5)),
        (ValueError, "rows_at_once: expected at least 0, got -1", lambda: rl.rnnt_loss_fused(AM, LM, LINEAR, Y, 0, rows_at_once=-1)),
        (ValueError, "blanks: expected a class within 0..6, got 7", lambda: rl.multiblank_rnnt_loss_fused(AM, LM, LINEAR, Y, [7], [1])),
        (ValueError, "blanks: expected a class within 0..4, got 5", lambda: rl.multiblank_rnnt_loss(X, Y, [5], [1])),
        (ValueError, r"label_smoothing: expected a number within 0..1, got 1.5", lambda: rl.rnnt_loss(X, Y, 0, label_smoothing=1.5)),
        (ValueError, "label_smoothing: expected 0 with use_hat_loss", lambda: rl.rnnt_loss(X, Y, 0, label_smoothing=0.1, use_hat_loss=True)),
        (ValueError, "fastemit_lambda: expected a number above -1, got -1.0", lambda: rl.tdt_loss(X, Y % 3, [0, 1], 0, fastemit_lambda=-1.0)),
        (ValueError, "clamp: expected a number, got nan", lambda: rl.tdt_loss(X, Y % 3, [0, 1], 0, clamp=float("nan"))),
        (ValueError, "omega: expected a probability, got 2.0", lambda: rl.tdt_loss(X, Y % 3, [0, 1], 0, omega=2.0)),
        (ValueError, "big_blank_durations: expected at most 1, the classes below the blank", lambda: MultiblankRNNTLoss(1, [2, 3])),
        (ValueError, r"targets: expected shape \(B, S\) or wider, .*, got \[3\]", lambda: nemo.RNNTLoss(4)(X, Y[0], *ENDS)),
        (TypeError, "targets: expected a tensor, got list", lambda: nemo.RNNTLoss(4)(X, Y.tolist(), *ENDS)),
        (TypeError, "max_joint_rows: expected an int, got 1.5", lambda: nemo.FlashRNNTLoss(4, max_joint_rows=1.5)),
        (ValueError, r"decoder_out: expected S \+ 1 = 4 rows, .*, got 3", lambda: rl.PrunedRNNTLoss(5, 5, 4, 5)(AM, LM[:, 1:], Y)),
        (ValueError, r"symbols: expected shape \(B, S\), got \[3\]", lambda: rl.PrunedRNNTLoss(5, 5, 4, 5)(AM, LM, Y[0])),
        (ValueError, r"encoder_out: expected shape \(B, T, encoder_dim\), got \[6, 5\]", lambda: rl.PrunedRNNTLoss(5, 5, 4, 5)(AM[0], LM, Y)),
        (TypeError, r"symbols: expected a tensor, got list", lambda: rl.PrunedRNNTLoss(5, 5, 4, 5)(AM, LM, Y.tolist())),
        (ValueError, r"ranges: expected shape \[2, 6, 2\], got \[2, 6, 1\]", lambda: rl.rnnt_loss_pruned(P, Y, RANGES[..., :1], 0)),
        (ValueError, "ranges: expected consecutive symbol positions", lambda: rl.rnnt_loss_pruned(P, Y, RANGES * 2, 0)),
        (ValueError, "ranges: expected values within 0..3, got 3..4", lambda: rl.rnnt_loss_pruned(P, Y, RANGES + 3, 0)),
        (ValueError, r"ranges: expected first rows that do not fall over time, got 2 and 1 at \[0, 2\]", lambda: rl.rnnt_loss_pruned(P, Y, RANGES + torch.tensor([0, 1, 2, 1, 0, 0])[:, None], 0)),
        (ValueError, r"symbols: expected shape \[2, S\], got \[3\]", lambda: rl.rnnt_loss_pruned(P, Y[0], RANGES, 0)),
        (ValueError, "s_range: expected at least 2, got 1", lambda: rl.get_rnnt_prune_ranges(PX, PY, GOOD, 1)),
        (ValueError, "s_range: expected at least 1, got 0", lambda: rl.get_rnnt_prune_ranges(PX[..., 1:], PY, GOOD, 0)),
        (ValueError, r"py_grad: expected shape .*, got \[2, 3, 6\] for \[2, 3, 7\]", lambda: rl.get_rnnt_prune_ranges(PX, PY[:, 1:], GOOD, 2)),
        (TypeError, "px_grad: expected float32 or float64, got torch.bfloat16", lambda: rl.get_rnnt_prune_ranges(PX.bfloat16(), PY, GOOD, 2)),
        (ValueError, r"py: expected shape .*, got \[2, 4, 4\] for \[2, 3, 7\]", lambda: rl.mutual_information_recursion(PX, PY[..., 2:])),
        (TypeError, "py: expected torch.float32 on cpu, got torch.float64 on cpu", lambda: rl.mutual_information_recursion(PX, PY.double())),
        (TypeError, "px: expected float32 or float64, got torch.float16", lambda: rl.mutual_information_recursion(PX.half(), PY.half())),
        (ValueError, "px and py: expected as many of each, and at least one, got 1 and 2", lambda: rl.joint_mutual_information_recursion([PX], [PY, PY])),
        (ValueError, r"ranges: expected shape \[2, 6, 's_range'\], got \[2, 5, 2\]", lambda: rl.do_rnnt_pruning(AM, LM, RANGES[:, 1:])),
        (ValueError, "ranges: expected values within 0..3", lambda: rl.do_rnnt_pruning(AM, LM, RANGES + 3)),
        (ValueError, "am and lm: expected the joiner's width 5, got 4 and 5", lambda: rl.rnnt_loss_fused(AM[..., 1:], LM, LINEAR, Y, 0)),
        (TypeError, "joiner.weight: expected am's torch.float64 on cpu, got torch.float32", lambda: rl.rnnt_loss_fused(AM.double(), LM.double(), LINEAR, Y, 0)),
        (ValueError, r"joiner: expected shape \(B, T, S \+ 1, C\), got \[2, 6\]", lambda: rl.rnnt_loss_fused(AM, LM, lambda a, b: AM[..., 0], Y, 0)),
        (TypeError, "boundary: expected a tensor, got NoneType", lambda: rl.rnnt_loss_packed(X.flatten(0, 2), Y, 0, None)),
        (ValueError, r"symbols: expected shape .*, got \[3\]", lambda: rl.rnnt_loss_packed(X.flatten(0, 2), Y[0], 0, GOOD)),
        (ValueError, "num_frames: expected at least 0, got -1", lambda: rl.rnnt_loss_packed(X.flatten(0, 2), Y, 0, GOOD, num_frames=-1)),
        (TypeError, "logits: expected a dense tensor, got one of layout torch.sparse_coo", lambda: rl.rnnt_loss(X.to_sparse(), Y, 0)),
        (ValueError, "logits: expected 48 nodes, as the boundary says, got 47", lambda: rl.rnnt_loss_packed(X.flatten(0, 2)[1:], Y, 0, GOOD)),
        (ValueError, r"logits: expected shape \(N, C\)", lambda: rl.rnnt_loss_packed(X, Y, 0, GOOD)),
        (ValueError, "durations: expected different numbers >= 0, one of them > 0, got .0", lambda: rl.tdt_loss(X, Y, [0], 0)),
        (ValueError, "durations: expected different numbers", lambda: rl.tdt_loss(X, Y, [0, 1, 1], 0)),
        (TypeError, "durations: expected integers, got .0, 1.5", lambda: rl.tdt_loss(X, Y, [0, 1.5], 0)),
        (ValueError, r"logits: expected the C classes, with termination_symbol=4 among them, and 2 durations", lambda: rl.tdt_loss(X, Y, [0, 1], 4)),
        (ValueError, "blank_durations: expected one for each of at most 8 blanks", lambda: rl.multiblank_rnnt_loss(X, Y, [0, 1], [1])),
        (ValueError, "blanks: expected a class within 0..4, got 9", lambda: rl.multiblank_rnnt_loss(X, Y, [0, 9], [1, 2])),
        (ValueError, "reduction: expected one of 'none', 'mean', 'mean_batch', 'sum', 'mean_volume', got 'x'", lambda: TDTLoss(4, [0, 1], "x")),
        (ValueError, "big_blank_durations: expected at most 0", lambda: MultiblankRNNTLoss(0, [2, 3, 4, 5, 6, 7])(X, Y, *ENDS)),
        (ValueError, r"acts: expected the C classes, with .* and 2 durations", lambda: TDTLoss(4, [0, 1])(X, Y, *ENDS)),
        (ValueError, "labels: expected values within 0..2, got 4", lambda: TDTLoss(2, [0, 1])(X, Y * 0 + 4, *ENDS)),
        (ValueError, "act_lens: expected values within 0..6, got 6..9", lambda: TDTLoss(2, [0, 1])(X, Y, ENDS[0] + torch.tensor([0, 3]), ENDS[1])),
        (ValueError, "label_lens: expected values within 0..3, got -3..3", lambda: MultiblankRNNTLoss(1, [2])(X, Y, ENDS[0], ENDS[1] * torch.tensor([1, -1]))),
        (ValueError, "logit_lengths: expected values within 0..6, got 6..7", lambda: torchaudio_loss(X, Y, torch.tensor([6, 7]), ENDS[1])),
        (ValueError, "target_lengths: expected values within 0..3, got -1..3", lambda: torchaudio_loss(X, Y, ENDS[0], torch.tensor([3, -1]))),
        (ValueError, "clamp: expected a number, got nan", lambda: torchaudio_loss(X, Y, *ENDS, clamp=float("nan"))),
        (ValueError, r"targets: expected shape \[2, 3\], got \[2, 2\]", lambda: torchaudio_loss(X, Y[:, 1:], *ENDS)),
        (ValueError, r"targets: expected values within 0..4, got 9 at \[0, 0\]", lambda: torchaudio_loss(X, Y * 0 + 9, *ENDS)),
        (ValueError, "blank: expected a class within 0..4, got 5", lambda: torchaudio_loss(X, Y, *ENDS, blank=5)),
    ],
)  # fmt: skip
def test_it_is_named(error: type[Exception], words: str, call) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("boundary", lambda ops: ops.lattice(PX[:, None].mT, PY[:, None].mT, [0], [1], GOOD + 9, None, True)),
        ("durations", lambda ops: ops.lattice(PX[:, None].mT, PY[:, None].mT, [], [1], GOOD, None, True)),
        ("label", lambda ops: ops.lattice(PX[:, None], PY[:, None].mT, [0], [1], GOOD, None, True)),
        ("expected float32 or float64", lambda ops: ops.lattice(PX[:, None].mT.half(), PY[:, None].mT.half(), [0], [1], GOOD, None, True)),
        ("blank_durations", lambda ops: ops.lattice(PX[:, None].mT, PY[:, None].mT, [0], [0], GOOD, None, True)),
        ("symbols", lambda ops: ops.joint_scores(X, Y + 5, GOOD)),
        ("blanks", lambda ops: ops.joint_scores(X, Y, GOOD, blanks=[5])),
        ("expected 2 and 4 dimensions", lambda ops: ops.joint_scores(X.flatten(1, 2), Y, GOOD)),
        ("durations", lambda ops: ops.joint_scores(X, Y, GOOD, durations=6)),
        ("blanks: out of range", lambda ops: ops.joint_scores(X, Y, GOOD, blanks=[3], durations=2)),
        ("symbols", lambda ops: ops.joint_scores(X, Y * 0 + 3, GOOD, durations=2)),
        ("smoothing", lambda ops: ops.joint_scores(X, Y, GOOD, kind="hat", smoothing=0.1)),
        ("packed", lambda ops: ops.joint_scores(X.flatten(0, 2), Y, GOOD, None, torch.tensor([0, 25]), 6)),
        ("rows: expected", lambda ops: ops.joint_scores(P, Y, GOOD)),
        ("lm: not a contiguous tensor", lambda ops: ops.simple_scores(LM[:1], AM, Y, GOOD, 0)),
        ("symbols", lambda ops: ops.simple_scores(LM, AM, Y - 9, GOOD, 0)),
        ("row: out of range", lambda ops: ops.join_(torch.empty(12, 5), AM, LM, GOOD, None, None, 10, 3, 0)),
        ("row: out of range", lambda ops: ops.join_(torch.empty(12, 5), AM, LM, GOOD, None, None, 2**63 - 1, 3, 0)),
        ("expected 12 nodes, got 15", lambda ops: ops.join_(torch.empty(15, 5), AM, LM, GOOD, None, None, 2, 3, 0)),
        ("places: not a", lambda ops: ops.join_(torch.empty(9, 5), AM, LM, GOOD, None, torch.zeros(1, 1, 1).long(), 2, 3, 0)),
        ("s_range", lambda ops: ops.prune_ranges(PX.mT, PY.mT, GOOD, 9, 1)),
    ],
)  # fmt: skip
def test_the_ops_themselves_keep_memory_safe(words: str, call, backend) -> None:
    if backend.device.type == "cuda":
        pytest.skip("errors on the device end its context: tests/rnnt_loss/test_cuda.py")
    with pytest.raises(RuntimeError, match=words):
        call(torch.ops.rnnkit_rnnt_loss)


def test_values_are_read_when_asked_for() -> None:
    rl.check_values(True)
    try:
        assert rl.rnnt_loss(X, Y, 0, GOOD).isfinite()
    finally:
        rl.check_values(False)


@pytest.mark.sanitized
def test_the_ops_themselves_survive_any_arguments(host_backends: Backend) -> None:
    ops = torch.ops.rnnkit_rnnt_loss
    lattice = [torch.randn(2, 1, 6, 3), torch.randn(2, 1, 6, 4)]
    check_survives(ops.lattice, [*lattice, [0], [1], GOOD, None, True, False, True, 1.0])
    check_survives(ops.prune_ranges, [lattice[0][:, 0], lattice[1][:, 0], GOOD, 2, 1])
    begin = torch.zeros(2, 6, dtype=torch.int64)
    for logits, first in ((X, None), (X[:, :, :2].contiguous(), begin)):
        scoring = [[0], "softmax", 1, 0.1]
        symbols = Y.clamp(max=3)
        check_survives(ops.joint_scores, [logits, symbols, GOOD, first, None, 0, *scoring, 0.0, 1.0, False])
        label, blank, norm = ops.joint_scores(logits, symbols, GOOD, first, None, 0, *scoring)
        given = [torch.randn_like(label), torch.randn_like(blank), logits, symbols, norm]
        check_survives(ops.joint_scores_backward, [*given, GOOD, first, None, *scoring, 0.0, 1.0])
        check_survives(ops.joint_scores_backward_, [*given, GOOD, first, None, None, 0, 0, 0, *scoring, 0.0, 1.0])
        places = torch.arange(norm.numel()).view(norm.shape) - 3
        for flat, part in ((logits.flatten(0, 2), (None, 0, 12, 0)), (logits.flatten(0, 2)[:9], (places, 1, 6, 2))):
            scores = [flat.contiguous(), symbols, label, blank, norm]
            check_survives(ops.joint_scores_, [*scores, GOOD, first, *part, *scoring])
            grads = [*given[:2], *scores[:2], norm]
            check_survives(ops.joint_scores_backward_, [*grads, GOOD, first, None, *part, *scoring, 0.0, 1.0])
    check_survives(ops.simple_scores, [LM, AM, Y, GOOD, 0])
    _, _, *kept = ops.simple_scores(LM, AM, Y, GOOD, 0)
    grads = [torch.randn(2, 6, 3), torch.randn(2, 6, 4)]
    check_survives(ops.simple_scores_backward, [*grads, LM, AM, Y, *kept, GOOD, 0])
    hidden = torch.rand(20, AM.shape[2])
    for part in ((None, 2, 5, 0), (torch.arange(48).view(2, 6, 4), 1, 11, 3)):
        check_survives(ops.join_, [hidden, AM, LM, GOOD, None, *part])
        check_survives(ops.join_backward_, [hidden, hidden, GOOD, None, *part, torch.zeros_like(AM), torch.zeros_like(LM)])


def test_a_scripted_loss_refuses_a_clamp_that_is_nan() -> None:
    with pytest.raises(Exception, match="clamp: expected a number, got nan"):
        torch.jit.script(torchaudio_loss)(X, Y.int(), *(ends.int() for ends in ENDS), clamp=float("nan"))
