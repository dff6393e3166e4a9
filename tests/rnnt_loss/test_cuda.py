"""What only a GPU can show: streams, graphs, no host synchronisation, sizes beyond 32 bits, errors of the device."""

from __future__ import annotations

import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing import check_current_stream, check_device_error

from .problems import TYPES, Problem

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def step(problem: Problem, rnnt_type: str = "regular") -> list[torch.Tensor]:
    """All losses of a training step, and their gradients."""
    lm, am = (t.nan_to_num().detach().requires_grad_() for t in (problem.lm, problem.am))
    symbols, boundary = problem.symbols, problem.boundary
    linear = torch.linspace(-1, 1, 5 * am.shape[2], device=am.device, dtype=am.dtype).view(5, -1).requires_grad_()
    joiner = torch.nn.Linear(am.shape[2], 5, device=am.device, dtype=am.dtype)
    joiner.weight = torch.nn.Parameter(linear.detach())
    with torch.no_grad():
        joiner.bias.zero_()
    simple, grads = rl.rnnt_loss_smoothed(lm, am, symbols, 0, 0.25, 0.1, boundary, rnnt_type, return_grad=True)
    ranges = rl.get_rnnt_prune_ranges(*grads, boundary, 3)
    small = symbols.clamp(max=4)
    pruned = rl.rnnt_loss_pruned_fused(am, lm, joiner, small, ranges, 0, boundary, rnnt_type)
    full = rl.rnnt_loss_fused(am, lm, joiner, small, 0, boundary, rnnt_type)
    loss = simple + pruned + full
    return [loss, ranges, *torch.autograd.grad(loss, [lm, am, *joiner.parameters()])]


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_a_training_step_agrees_with_the_cpu(rnnt_type: str) -> None:
    results = [step(Problem.of(60, 20, 33, batch=4, device=device), rnnt_type) for device in ("cpu", "cuda")]
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(e.cpu(), a)


def test_nothing_waits_for_the_device() -> None:
    problem = Problem.of(50, 9, 40, dtype=torch.float32, device="cuda")
    step(problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(problem)
        rl.rnnt_loss(problem.logits, problem.symbols, 0, problem.boundary)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_captured_and_replayed() -> None:
    problem = Problem.of(50, 9, 40, dtype=torch.float32, device="cuda")
    logits = problem.logits.nan_to_num().requires_grad_()

    def run():
        loss = rl.rnnt_loss(logits, problem.symbols, 0, problem.boundary)
        return loss, torch.autograd.grad(loss, logits)[0]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        logits.copy_(torch.randn_like(logits))
    graph.replay()
    for a, e in zip(captured, run(), strict=True):
        torch.testing.assert_close(a, e)


def test_work_goes_to_the_current_stream() -> None:
    symbols = torch.ones(4, 3, dtype=torch.int64, device="cuda")
    check_current_stream(
        lambda x: rl.rnnt_loss(x, symbols, 0, reduction="none"), torch.full((4, 500, 4, 500), 0.5, device="cuda")
    )


def test_results_repeat_bit_by_bit() -> None:
    problem = Problem.of(80, 30, 50, batch=8, dtype=torch.float32, device="cuda")
    for a, e in zip(step(problem), step(problem), strict=True):
        assert torch.equal(a, e)


def test_offsets_beyond_32_bits() -> None:
    """2^31 + logits; the last sequence must still be right."""
    batch, frames, symbols, classes = 5, 900, 99, 5000
    logits = torch.empty(batch, frames, symbols + 1, classes, dtype=torch.bfloat16, device="cuda").normal_()
    assert logits.numel() > 2**31
    targets = torch.randint(1, classes, (batch, symbols), device="cuda")
    last = logits[-1:].clone().requires_grad_()
    expected = rl.rnnt_loss(last, targets[-1:], 0)
    (grad,) = torch.autograd.grad(expected, last)
    leaf = logits.requires_grad_()
    loss = rl.rnnt_loss(leaf, targets, 0, reduction="none")
    torch.testing.assert_close(loss[-1], expected)
    (of_last,) = torch.autograd.grad(loss[-1], leaf)
    assert torch.equal(of_last[-1:], grad)
    assert not of_last[:-1].any()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("symbols: a value is not within 0 and C - 1", "rnnt_loss(x, y + 9, 0)"),
        ("boundary: a value is not within 0 and S, T", "rnnt_loss(x, y, 0, torch.tensor([[0, 0, 3, 7]], device='cuda'))"),
    ],
)
def test_values_out_of_range_end_in_a_cuda_error(words: str, code: str) -> None:
    prologue = "import torch; from rnnt_loss import rnnt_loss; x = torch.randn(1, 6, 4, 5, device='cuda'); "
    check_device_error(prologue + "y = torch.ones(1, 3, dtype=torch.int64, device='cuda'); " + code, words)


def test_values_are_checked_first_when_asked_for() -> None:
    logits, symbols = torch.randn(1, 6, 4, 5, device="cuda"), torch.full((1, 3), 9, device="cuda")
    rl.check_values(True)
    try:
        with pytest.raises(ValueError, match=r"symbols: expected values within 0..4, got 9"):
            rl.rnnt_loss(logits, symbols, 0)
    finally:
        rl.check_values(False)
