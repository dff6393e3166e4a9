"""Transducers whose arcs last, and label smoothing: losses and gradients against the float64 reference, on every backend."""

from __future__ import annotations

import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing import Backend, poisoned_outputs
from rnnt_loss import reference
from torch import nn

from .problems import Problem, compare

pytestmark = pytest.mark.kernels
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DURATIONS = [2, 0, 1]
LASTING = {"TDT": ([0, 1, 2], [1, 2]), "multi-blank": ([0], [1, 3])}  # of labels, of blanks, in the lattice


def loss_of(model: str, logits, problem: Problem, **options):
    given = (logits, problem.symbols)
    if model == "TDT":
        return rl.tdt_loss(*given, DURATIONS, 1, problem.boundary, 0.05, **options)
    return rl.multiblank_rnnt_loss(*given, [1, 2], [1, 3], problem.boundary, 0.05, **options)


def fused_loss_of(model: str, am, lm, joiner, problem: Problem, **options):
    given = (am, lm, joiner, problem.symbols)
    if model == "TDT":
        return rl.tdt_loss_fused(*given, DURATIONS, 1, problem.boundary, 0.05, **options)
    return rl.multiblank_rnnt_loss_fused(*given, [1, 2], [1, 3], problem.boundary, 0.05, **options)


@pytest.mark.parametrize("classes", [6, 40])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", LASTING)
def test_lasting_arcs(model: str, dtype: torch.dtype, classes: int, backend: Backend) -> None:
    columns = classes + 3 if model == "TDT" else classes
    problem = Problem.of(classes=columns, dtype=dtype, device=backend.device)
    problem.symbols.clamp_(max=classes - 1)
    symbols, boundary = problem.symbols, problem.boundary

    def run(logits):
        with poisoned_outputs():
            return loss_of(model, logits, problem, reduction="none")

    def oracle(logits):
        if model == "multi-blank":
            label, blank = reference.joint_scores(logits, symbols, boundary, None, [1, 2])
            return -reference.lattice(label[:, None] - 0.05, blank - 0.05, *LASTING[model], boundary)
        inside = reference.inside(boundary, None, *logits.shape[1:3])
        logits = torch.where(inside[..., None], logits, 0.0)
        label, blank = reference.joint_scores(logits[..., :classes], symbols, boundary, None, [1])
        two, none, one = logits[..., classes:].log_softmax(-1).unbind(-1)
        of_labels = torch.stack([none, one, two], 1)[..., :-1]
        arcs = (label[:, None] + of_labels - 0.05, blank + torch.stack([one, two], 1) - 0.05)
        return -reference.lattice(*arcs, *LASTING[model], boundary)

    compare(run, oracle, [problem.logits], problem.weights)


@pytest.mark.parametrize("options", [{}, {"fastemit_lambda": 0.5, "clamp": 0.02}], ids=["plain", "clamped"])
@pytest.mark.parametrize("rows_at_once", [0, 7])
@pytest.mark.parametrize("model", LASTING)
def test_fused_with_the_joiner(model: str, rows_at_once: int, options: dict, backend: Backend) -> None:
    """The Linear after a tanh, and any callable, against the joiner and its loss one after the other."""
    problem = Problem.of(8, 5, device=backend.device)
    linear = nn.Linear(6, 9).to(backend.device, torch.float64)
    joiner = lambda am, lm: linear(torch.tanh(am + lm))
    losses = {
        "in turn": lambda am, lm: loss_of(model, joiner(am[:, :, None], lm[:, None]), problem, reduction="none", **options),
        "Linear": lambda am, lm: fused_loss_of(
            model, am, lm, linear, problem, reduction="none", rows_at_once=rows_at_once, **options
        ),
        "callable": lambda am, lm: fused_loss_of(
            model, am, lm, joiner, problem, reduction="none", rows_at_once=rows_at_once, **options
        ),
    }
    results = {}
    for how, loss in losses.items():
        leaves = [t.nan_to_num().requires_grad_() for t in (problem.am, problem.lm)]
        with poisoned_outputs():
            value = loss(*leaves)
            grads = torch.autograd.grad((value * problem.weights).sum(), [*leaves, *linear.parameters()])
        results[how] = [value, *grads]
    for how in ("Linear", "callable"):
        for actual, expected in zip(results[how], results["in turn"], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.sanitized
def test_a_clamped_sequence_that_begins_at_its_end(backend: Backend) -> None:
    """Nothing is read of the frame that it does not have."""
    bounds = [[0, 0, 4, 7], [2, 7, 2, 7]]
    problem = Problem.of(7, 4, 9, batch=2, dtype=torch.float32, boundary=bounds, device=backend.device)
    logits = problem.logits.nan_to_num().requires_grad_()
    given = (logits, problem.symbols % 6, [0, 1, 2], 2, problem.boundary)
    loss = rl.tdt_loss(*given, reduction="none", clamp=0.1)
    (grad,) = torch.autograd.grad(loss[loss.isfinite()].sum(), logits)
    assert grad[0].any()
    assert not grad[1].any()


def test_a_clamped_callable_has_first_derivatives_only() -> None:
    problem = Problem.of(4, 2, batch=1)
    joiner = nn.Linear(6, 9).double()
    am, lm = (t.nan_to_num().requires_grad_() for t in (problem.am, problem.lm))
    loss = lambda am: fused_loss_of("TDT", am, lm, lambda am, lm: joiner(am + lm), problem, clamp=0.02)
    (grad,) = torch.autograd.grad(loss(am), am, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="clamp: first derivatives only"):
        torch.func.grad(loss)(am)


@pytest.mark.parametrize("dtype", DTYPES)
def test_label_smoothing(dtype: torch.dtype, backend: Backend) -> None:
    """Each arc has the log-probability that torch's cross_entropy gives its class."""
    problem = Problem.of(dtype=dtype, device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary

    def run(logits):
        with poisoned_outputs():
            return rl.rnnt_loss(logits, symbols, 2, boundary, reduction="none", label_smoothing=0.2)

    def oracle(logits):
        z = torch.where(reference.inside(boundary, None, *logits.shape[1:3])[..., None], logits, 0.0).movedim(-1, 1)
        classes = [torch.full_like(z[:, 0], v, dtype=torch.int64) for v in range(z.shape[1])]
        smoothed = [-nn.functional.cross_entropy(z, v, label_smoothing=0.2, reduction="none") for v in classes]
        label, blank = reference.joint_scores(torch.stack(smoothed, -1), symbols, boundary, None, [2], "log_probs")
        return -reference.lattice(label[:, None], blank, [0], [1], boundary)

    compare(run, oracle, [problem.logits], problem.weights)


def test_every_loss_of_logits_smooths_alike() -> None:
    problem = Problem.of(batch=1, dtype=torch.float64)
    logits, symbols, boundary = problem.logits, problem.symbols, problem.boundary
    options = {"reduction": "none", "label_smoothing": 0.2}
    expected = rl.rnnt_loss(logits, symbols, 2, boundary, **options)
    assert not torch.allclose(expected, rl.rnnt_loss(logits, symbols, 2, boundary, reduction="none"))
    torch.testing.assert_close(rl.rnnt_loss_packed(logits.flatten(0, 2), symbols, 2, boundary, **options), expected)
    every_row = torch.arange(5).expand(1, 7, 5)
    torch.testing.assert_close(rl.rnnt_loss_pruned(logits, symbols, every_row, 2, boundary, **options), expected)
    am, lm, linear = torch.randn(1, 7, 3).double(), torch.randn(1, 5, 3).double(), nn.Linear(3, 6).double()
    expected = rl.rnnt_loss(linear(torch.tanh(am[:, :, None] + lm[:, None])), symbols, 2, boundary, **options)
    torch.testing.assert_close(rl.rnnt_loss_fused(am, lm, linear, symbols, 2, boundary, **options), expected)
    fused = rl.rnnt_loss_pruned_fused(am, lm, linear, symbols, every_row, 2, boundary, **options)
    torch.testing.assert_close(fused, expected)
