"""First and second derivatives in float64, torch.func, and that results repeat bit by bit."""

from __future__ import annotations

import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing.cases import torch_threads
from torch import nn

from .problems import TYPES, Problem

torch.manual_seed(0)
PROBLEM = Problem.of(4, 2, 4, batch=2, boundary=[[0, 0, 2, 4], [0, 0, 1, 3]])
RANGES = torch.tensor([[[0, 1], [0, 1], [1, 2], [1, 2]], [[0, 1], [0, 1], [0, 1], [0, 1]]])
LINEAR = nn.Linear(4, 3).double()
ARGUMENTS = (PROBLEM.symbols.clamp(max=2), 0, PROBLEM.boundary)
LABELS = PROBLEM.symbols.clamp(min=1, max=2)  # no blank among them, which HAT gives no probability as a label
CLEAN = {name: getattr(PROBLEM, name).nan_to_num().requires_grad_() for name in ("logits", "lm", "am")}
PRUNED = torch.randn(2, 4, 2, 4, dtype=torch.float64, requires_grad=True)
ACTS = torch.randn(2, 4, 3, 6, dtype=torch.float64, requires_grad=True)

LOSSES = {
    "rnnt_loss": (lambda x: rl.rnnt_loss(x, *ARGUMENTS), ["logits"]),
    "modified": (lambda x: rl.rnnt_loss(x, *ARGUMENTS, "modified"), ["logits"]),
    "constrained": (lambda x: rl.rnnt_loss(x, *ARGUMENTS, "constrained", 0.1), ["logits"]),
    "hat": (lambda x: rl.rnnt_loss(x, LABELS, *ARGUMENTS[1:], use_hat_loss=True), ["logits"]),
    "simple": (lambda lm, am: rl.rnnt_loss_simple(lm, am, *ARGUMENTS), ["lm", "am"]),
    "smoothed": (lambda lm, am: rl.rnnt_loss_smoothed(lm, am, *ARGUMENTS[:2], 0.2, 0.1, ARGUMENTS[2]), ["lm", "am"]),
    "pruned": (lambda x: rl.rnnt_loss_pruned(x, ARGUMENTS[0], RANGES, *ARGUMENTS[1:]), [PRUNED]),
    "fused": (
        lambda am, lm, w, b: rl.rnnt_loss_fused(am, lm, _linear(w, b), *ARGUMENTS, rows_at_once=5),
        ["am", "lm", LINEAR.weight, LINEAR.bias],
    ),
    "pruned fused": (
        lambda am, lm, w, b: rl.rnnt_loss_pruned_fused(
            am, lm, _linear(w, b), ARGUMENTS[0], RANGES, *ARGUMENTS[1:], rows_at_once=3
        ),
        ["am", "lm", LINEAR.weight, LINEAR.bias],
    ),
    "callable fused": (
        lambda am, lm, w: rl.rnnt_loss_fused(am, lm, lambda am, lm: (am * lm) @ w.T, *ARGUMENTS, rows_at_once=5),
        ["am", "lm", LINEAR.weight],
    ),
    "tdt": (lambda x: rl.tdt_loss(x, ARGUMENTS[0], [0, 1, 2], 0, ARGUMENTS[2], 0.05), [ACTS]),
    "multi-blank": (lambda x: rl.multiblank_rnnt_loss(x, ARGUMENTS[0], [0, 5], [1, 2], ARGUMENTS[2]), [ACTS]),
}


class _Linear(nn.Linear):
    """One whose parameters are given, so that gradcheck may vary them."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        nn.Module.__init__(self)
        self.given = (weight, bias)

    weight = property(lambda self: self.given[0])
    bias = property(lambda self: self.given[1])


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    return _Linear(weight, bias)


def inputs(names) -> list[torch.Tensor]:
    return [CLEAN[n] if isinstance(n, str) else n for n in names]


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name: str) -> None:
    loss, names = LOSSES[name]
    assert torch.autograd.gradcheck(loss, inputs(names))


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name: str) -> None:
    loss, names = LOSSES[name]
    assert torch.autograd.gradgradcheck(loss, inputs(names), atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", LOSSES)
def test_functional_gradients(name: str) -> None:
    loss, names = LOSSES[name]
    leaves = inputs(names)
    actual = torch.func.grad(loss, argnums=tuple(range(len(leaves))))(*[t.detach() for t in leaves])
    torch.testing.assert_close(actual, torch.autograd.grad(loss(*leaves), leaves))


@pytest.mark.parametrize("pruned", [False, True])
def test_padding_is_no_part_of_what_can_be_differentiated_again(pruned: bool) -> None:
    """As of first derivatives: NaN there comes into no gradient, nor under torch.func."""

    def loss(am, lm):
        if pruned:
            return rl.rnnt_loss_pruned_fused(am, lm, LINEAR, ARGUMENTS[0], RANGES, *ARGUMENTS[1:])
        return rl.rnnt_loss_fused(am, lm, LINEAR, *ARGUMENTS)

    given = [PROBLEM.am.detach().requires_grad_(), PROBLEM.lm.detach().requires_grad_()]
    assert any(t.isnan().any() for t in given)
    wanted = [*given, *LINEAR.parameters()]
    expected = torch.autograd.grad(loss(*given), wanted)
    again = torch.autograd.grad(loss(*given), wanted, create_graph=True)
    functional = torch.func.grad(loss, (0, 1))(*(t.detach() for t in given))
    for actual, truth in zip([*again, *functional], [*expected, *expected[:2]], strict=True):
        torch.testing.assert_close(actual, truth)


@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.6, 0.6), (0.2, 0.1)])
def test_scores_outside_are_minus_infinity_under_torch_func(scales: tuple[float, float]) -> None:
    lm, am = CLEAN["lm"].detach(), CLEAN["am"].detach()
    scores = lambda am: rl.get_rnnt_logprobs_smoothed(lm, am, *ARGUMENTS[:2], *scales, ARGUMENTS[2])
    for actual, expected in zip(torch.func.vmap(scores)(am[None]), scores(am), strict=True):
        torch.testing.assert_close(actual[0], expected)


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0)], ids=["no sequences", "no frames"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_nothing_are_zeros(sizes: tuple[int, int], create_graph: bool) -> None:
    batch, frames = sizes
    symbols = torch.ones(batch, 3, dtype=torch.int64)
    am, lm = torch.randn(batch, frames, 4, requires_grad=True), torch.randn(batch, 4, 4, requires_grad=True)
    ranges = torch.arange(2).expand(batch, frames, 2)
    joiner = nn.Linear(4, 5)
    losses = [
        rl.rnnt_loss_fused(am, lm, joiner, symbols, 0, reduction="sum"),
        rl.rnnt_loss_pruned_fused(am, lm, joiner, symbols, ranges, 0, reduction="sum"),
        rl.rnnt_loss_pruned(joiner(am[:, :, None] + lm[:, None, :2]), symbols, ranges, 0, reduction="sum"),
        rl.rnnt_loss_simple(lm, am, symbols, 0, reduction="sum"),
    ]
    for loss in losses:
        for grad, of in zip(torch.autograd.grad(loss, [am, lm], create_graph=create_graph), (am, lm), strict=True):
            assert torch.equal(grad, torch.zeros_like(of))


@pytest.mark.parametrize("options", [{"fastemit_lambda": 0.1}, {"reuse_logits": True}], ids=["fastemit", "reuse"])
def test_what_has_no_second_derivative_says_so(options: dict) -> None:
    logits = CLEAN["logits"].clone()
    (grad,) = torch.autograd.grad(rl.rnnt_loss(logits, *ARGUMENTS), logits, create_graph=True)
    assert grad.requires_grad
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(rl.rnnt_loss(CLEAN["logits"].clone(), *ARGUMENTS, **options), CLEAN["logits"], create_graph=True)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_results_repeat_bit_by_bit_with_any_threads(rnnt_type: str, threads: int) -> None:
    problem = Problem.of(30, 9, 33, batch=5, dtype=torch.float32)

    def results():
        lm, am = (t.nan_to_num().requires_grad_() for t in (problem.lm, problem.am))
        arguments = (problem.symbols, 0, problem.boundary, rnnt_type)
        simple, grads = rl.rnnt_loss_smoothed(lm, am, problem.symbols, 0, 0.25, 0.0, *arguments[2:], return_grad=True)
        logits = problem.logits.detach().requires_grad_()
        loss = rl.rnnt_loss(logits, *arguments)
        return [simple, loss, *grads, *torch.autograd.grad(simple + loss, [lm, am, logits])]

    with torch_threads(2):
        expected = results()
    with torch_threads(threads):
        for a, e in zip(results(), expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-6, atol=1e-7)
        for a, e in zip(results(), results(), strict=True):
            assert torch.equal(a, e)
