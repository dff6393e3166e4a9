"""Every loss and its gradients against the float64 reference, with poisoned padding, on every backend."""

from __future__ import annotations

import copy

import pytest
import rnnt_loss as rl
import torch
from rnnkit_common.testing import Backend, poisoned_outputs, some_sanitized
from rnnt_loss import _joiner, _nodes, reference
from rnnt_loss.torchaudio import rnnt_loss as torchaudio_loss
from torch import nn

from .problems import TYPES, Problem, compare, reference_score

pytestmark = pytest.mark.kernels
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("hat", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rnnt_loss(rnnt_type: str, hat: bool, dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem.of(dtype=dtype, device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary

    def run(logits):
        options = {"reduction": "none", "use_hat_loss": hat, "delay_penalty": 0.1}
        with poisoned_outputs():
            return rl.rnnt_loss(logits, symbols, 2, boundary, rnnt_type, **options)

    def oracle(logits):
        scores = reference.joint_scores(logits, symbols, boundary, None, [2], "hat" if hat else "softmax")
        return -reference_score(*scores, rnnt_type, boundary, delay_penalty=0.1)

    compare(run, oracle, [problem.logits], problem.weights)


@pytest.mark.parametrize("classes", some_sanitized([1, 2, 3, 4, 7, 8, 31, 33, 64, 100, 255, 501], 5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_classes(classes: int, dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem.of(3, 2, classes, dtype=dtype, device=backend.device, scale=3)
    symbols, boundary, blank = problem.symbols, problem.boundary, classes - 1

    def oracle(logits):
        return -reference_score(*reference.joint_scores(logits, symbols, boundary, None, [blank]), "regular", boundary)

    compare(lambda x: rl.rnnt_loss(x, symbols, -1, boundary, reduction="none"), oracle, [problem.logits], problem.weights)


@pytest.mark.parametrize(
    "boundary", [[[0, 0, 0, 4]], [[0, 0, 0, 1]], [[2, 1, 4, 6]], [[0, 3, 4, 7]], [[0, 0, 4, 0]]], ids=str
)
def test_sequences_of_any_bounds(boundary: list[list[int]], backend: Backend) -> None:
    """Among them no symbols, one frame, beginnings within the tensors, and no frames at all."""
    problem = Problem.of(batch=1, boundary=boundary, device=backend.device)

    def run(logits):
        return rl.rnnt_loss(logits, problem.symbols, 0, problem.boundary, reduction="none", zero_infinity=True)

    def oracle(logits):
        scores = reference.joint_scores(logits, problem.symbols, problem.boundary, None, [0])
        return -reference_score(*scores, "regular", problem.boundary).nan_to_num(neginf=0.0)

    compare(run, oracle, [problem.logits], problem.weights)


@pytest.mark.parametrize("shape", [(7, 0, 5), (1, 0, 3), (1, 3, 4), (0, 0, 2), (0, 3, 4)], ids=str)
@pytest.mark.parametrize("batch", [0, 2])
def test_empty_and_tiny_tensors(shape: tuple[int, int, int], batch: int, backend: Backend) -> None:
    frames, symbols, classes = shape
    bounds = [[0, 0, symbols, frames]] * batch
    problem = Problem.of(frames, symbols, classes, batch=batch, boundary=bounds, device=backend.device)
    logits = problem.logits.requires_grad_()
    loss = rl.rnnt_loss(logits, problem.symbols, 0, reduction="none")
    scores = reference.joint_scores(logits, problem.symbols, problem.boundary, None, [0])
    if batch and frames:
        torch.testing.assert_close(loss, -reference_score(*scores, "regular", problem.boundary))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.isfinite().all()


@pytest.mark.parametrize(("batch", "frames"), [(0, 5), (2, 0), (0, 0)])
def test_every_loss_of_no_sequences_and_no_frames(batch: int, frames: int, backend: Backend) -> None:
    """Among them what lists arcs and nodes elsewhere: pruned, packed and fused losses."""
    like = {"device": backend.device, "requires_grad": True}
    am, lm, joiner = torch.randn(batch, frames, 4, **like), torch.randn(batch, 4, 4, **like), nn.Linear(4, 6)
    joiner = joiner.to(backend.device)
    symbols = torch.ones(batch, 3, dtype=torch.int64, device=backend.device)
    ranges = torch.arange(2, device=backend.device).expand(batch, frames, 2)
    bounds = torch.tensor([0, 0, 3, frames], device=backend.device).expand(batch, 4)
    banded, nodes = joiner(am)[:, :, None].expand(-1, -1, 2, -1), joiner(am)[:, :, None].expand(-1, -1, 4, -1)
    losses = {
        "pruned": rl.rnnt_loss_pruned(banded, symbols, ranges, 0, bounds, reduction="none"),
        "packed": rl.rnnt_loss_packed(nodes.reshape(-1, 6), symbols, 0, bounds, reduction="none"),
        "fused": rl.rnnt_loss_fused(am, lm, joiner, symbols, 0, bounds, reduction="none"),
        "callable": rl.rnnt_loss_fused(am, lm, lambda a, b: joiner(a + b), symbols, 0, bounds, reduction="none"),
        "in a band": rl.rnnt_loss_pruned_fused(am, lm, joiner, symbols, ranges, 0, bounds, reduction="none"),
        "simple": rl.rnnt_loss_simple(lm, am, symbols, 0, bounds, reduction="none"),
    }
    for loss in losses.values():
        assert loss.shape == (batch,)
        assert (loss.isinf() == (frames == 0)).all()
        loss.sum().backward()


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_simple_loss(rnnt_type: str, dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem.of(dtype=dtype, device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary

    def run(lm, am):
        with poisoned_outputs():
            return rl.rnnt_loss_simple(lm, am, symbols, 1, boundary, rnnt_type, reduction="none")

    def oracle(lm, am):
        label, blank = reference.simple_scores(lm, am, symbols, boundary, 1)
        return -reference_score(label, blank[:, None], rnnt_type, boundary)

    compare(run, oracle, [problem.lm, problem.am], problem.weights)


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 45.0), (torch.float32, 300.0), (torch.float64, 900.0)])
def test_simple_loss_where_the_product_of_exponentials_underflows(
    dtype: torch.dtype, apart: float, backend: Backend
) -> None:
    """lm and am peak on different classes, twice `apart` from each other."""
    problem = Problem.of(9, 5, 40, batch=2, dtype=dtype, device=backend.device)
    lm, am = problem.lm.clone(), problem.am.clone()
    lm[..., 3] += apart
    am[..., 4] += apart
    am[:, 2] = am[:, 1]
    lm[0, 1] -= apart  # elsewhere it does not
    symbols, boundary = problem.symbols, problem.boundary

    def oracle(lm, am):
        label, blank = reference.simple_scores(lm, am, symbols, boundary, 1)
        return -reference_score(label, blank[:, None], "regular", boundary)

    run = lambda lm, am: rl.rnnt_loss_simple(lm, am, symbols, 1, boundary, reduction="none")
    # scores are differences of numbers so large: their rounding shows, whoever computes them
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5 if apart < 100 else 5e-4
    compare(run, oracle, [lm, am], problem.weights, tolerance)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("scales", some_sanitized([(0.25, 0.0), (0.0, 0.3), (0.1, 0.1)], 2))
def test_smoothed_loss(rnnt_type: str, scales: tuple[float, float], backend: Backend) -> None:
    problem = Problem.of(device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary
    lm_only, am_only = scales

    def oracle(lm, am):
        valid = reference.inside(boundary, None, am.shape[1], lm.shape[1])
        rows, frames = valid.any(1)[..., None], valid.any(2)[..., None]
        lm, am = torch.where(rows, lm, 0.0), torch.where(frames, am, 0.0)
        q = (lm.softmax(-1) * rows).sum((0, 1)) / rows.sum()
        parts = [am[:, :, None] + lm[:, None], lm[:, None].expand(-1, am.shape[1], -1, -1), (am + q.log())[:, :, None]]
        parts[2] = parts[2].expand(-1, -1, lm.shape[1], -1)
        pairs = [reference.joint_scores(part, symbols, boundary, None, [1]) for part in parts]
        weights = (1 - lm_only - am_only, lm_only, am_only)
        label, blank = (
            sum(
                w * pair[i].masked_fill(pair[0 if i == 0 else 1] == -torch.inf, -1e5)
                for w, pair in zip(weights, pairs, strict=True)
            )
            for i in (0, 1)
        )
        return -reference_score(label, blank, rnnt_type, boundary)

    run = lambda lm, am: rl.rnnt_loss_smoothed(lm, am, symbols, 1, lm_only, am_only, boundary, rnnt_type, reduction="none")
    compare(run, oracle, [problem.lm, problem.am], problem.weights)


def band(problem: Problem, rnnt_type: str, s_range: int) -> torch.Tensor:
    lm, am = (t.nan_to_num().float() for t in (problem.lm, problem.am))
    _, occupancies = rl.rnnt_loss_simple(lm, am, problem.symbols, 0, problem.boundary, rnnt_type, return_grad=True)
    return rl.get_rnnt_prune_ranges(*occupancies, problem.boundary, s_range)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("hat", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pruned_loss(rnnt_type: str, hat: bool, dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem.of(10, 6, dtype=dtype, device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary
    ranges = band(problem, rnnt_type, 3)
    begin = ranges[..., 0].contiguous()
    logits = problem.logits.gather(2, ranges[..., None].expand(-1, -1, -1, problem.logits.shape[3]))

    def run(logits):
        options = {"reduction": "none", "use_hat_loss": hat, "delay_penalty": 0.1}
        with poisoned_outputs():
            return rl.rnnt_loss_pruned(logits, symbols, ranges, 1, boundary, rnnt_type, **options)

    def oracle(logits):
        scores = reference.joint_scores(logits, symbols, boundary, begin, [1], "hat" if hat else "softmax")
        return -reference_score(*scores, rnnt_type, boundary, begin, delay_penalty=0.1)

    compare(run, oracle, [logits], problem.weights)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("rows_at_once", some_sanitized([0, 1, 7, 10**6], 2))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_joiner(pruned: bool, rows_at_once: int, dtype: torch.dtype, backend: Backend) -> None:
    """The Linear after a tanh, and any callable, against the joiner and its loss one after the other."""
    problem = Problem.of(8, 5, dtype=dtype, device=backend.device)
    symbols, boundary = problem.symbols, problem.boundary
    linear = nn.Linear(6, 9).to(backend.device, dtype)
    ranges = band(problem, "regular", 3) if pruned else None
    joiner = lambda am, lm: linear(torch.tanh(am + lm))

    def losses(am, lm, how):
        options = {"reduction": "none", "delay_penalty": 0.1}
        if how == "in turn":
            am, lm = am.nan_to_num(), lm.nan_to_num()
            if not pruned:
                return rl.rnnt_loss(joiner(am[:, :, None], lm[:, None]), symbols, 1, boundary, **options)
            return rl.rnnt_loss_pruned(joiner(*rl.do_rnnt_pruning(am, lm, ranges)), symbols, ranges, 1, boundary, **options)
        options["rows_at_once"] = rows_at_once
        output = linear if how == "linear" else joiner
        if how == "callable":  # what a joiner makes of NaN is its own affair
            am, lm = am.nan_to_num(), lm.nan_to_num()
        with poisoned_outputs():
            if not pruned:
                return rl.rnnt_loss_fused(am, lm, output, symbols, 1, boundary, **options)
            return rl.rnnt_loss_pruned_fused(am, lm, output, symbols, ranges, 1, boundary, **options)

    results = []
    for how in ("in turn", "linear", "callable"):
        leaves = [t.detach().requires_grad_() for t in (problem.am, problem.lm)]
        loss = losses(*leaves, how)
        grads = torch.autograd.grad((loss * problem.weights.to(dtype)).sum(), [*leaves, *linear.parameters()])
        results.append([loss, *grads])
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    for other in results[1:]:
        for a, e in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("rows_at_once", [0, 100])
def test_padding_is_not_multiplied(pruned: bool, rows_at_once: int, host_backends: Backend, monkeypatch) -> None:
    """The joiner's products have the rows of the sequences alone; those give what each gives by itself."""
    bounds = [[0, 0, 12, 40], [0, 0, 0, 5], [0, 7, 0, 7], [0, 10, 3, 30]]
    problem = Problem.of(40, 12, batch=4, boundary=bounds, dtype=torch.float32, device=host_backends.device)
    linear, multiplied, product = nn.Linear(6, 9), [], _joiner._linear
    ranges = torch.arange(40).div(4, rounding_mode="floor")[:, None].clamp(max=9) + torch.arange(4)
    monkeypatch.setattr(_joiner, "_linear", lambda x, *rest: multiplied.append(len(x)) or product(x, *rest))

    def loss_of(am, lm, symbols, boundary):
        options = {"reduction": "sum", "rows_at_once": rows_at_once, "zero_infinity": True}
        if not pruned:
            return rl.rnnt_loss_fused(am, lm, linear, symbols, 1, boundary, **options)
        band = ranges.expand(len(am), -1, -1)[:, : am.shape[1]].clamp(max=lm.shape[1] - 4 + torch.arange(4))
        return rl.rnnt_loss_pruned_fused(am, lm, linear, symbols, band, 1, boundary, **options)

    leaves = [problem.am.requires_grad_(), problem.lm.requires_grad_()]
    wanted = [*leaves, *linear.parameters()]
    with poisoned_outputs():
        loss = loss_of(*leaves, problem.symbols, problem.boundary)
        assert sum(multiplied) == (40 + 5 + 20) * 4 if pruned else 40 * 13 + 5 + 20 * 4
        grads = torch.autograd.grad(loss, wanted)
    alone = sum(
        loss_of(*(t[b : b + 1].nan_to_num() for t in leaves), problem.symbols[b : b + 1], problem.boundary[b : b + 1])
        for b in range(4)
    )
    for mine, other in zip([loss, *grads], [alone, *torch.autograd.grad(alone, wanted)], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_bounds_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    """Sums of them are not made in 8 bits."""
    symbols = 200 if dtype == torch.uint8 else 127
    bounds = torch.tensor([[0, 0, symbols, 20], [0, 0, 100, 20]])
    am, lm, linear, y = torch.randn(2, 20, 8), torch.randn(2, 201, 8), nn.Linear(8, 10), torch.randint(1, 10, (2, 200))
    losses = [rl.rnnt_loss_fused(am, lm, linear, y, 0, b, reduction="none") for b in (bounds, bounds.to(dtype))]
    assert losses[0].isfinite().all()
    assert torch.equal(*losses)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("bound", [False, True])
def test_backward_multiplies_what_paths_reach(pruned: bool, kept: bool, bound: bool, backend: Backend, monkeypatch) -> None:
    """Of most nodes the gradients are lost in the rounding of the others': what is summed of them does without."""
    bounds = [[0, 0, 30, 60], [1, 2, 20, 50] if bound else [0, 0, 30, 60]]
    problem = Problem.of(60, 30, batch=2, boundary=bounds, dtype=torch.float32, device=backend.device)
    linear, multiplied, product = nn.Linear(6, 9).to(backend.device), [], _joiner._linear
    with torch.no_grad():
        linear.weight.mul_(8)  # sure of itself, as a trained one
    monkeypatch.setattr(_joiner, "_linear", lambda x, *rest: multiplied.append(len(x)) or product(x, *rest))
    begin = torch.arange(60, device=backend.device).div(3, rounding_mode="floor").expand(2, 60)
    begin = torch.minimum(begin, problem.boundary[:, 2:3] - 11)
    am, lm = problem.am.nan_to_num(), problem.lm.nan_to_num()

    def gradients(nodes: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        monkeypatch.setattr(_nodes, "_CHOICE", nodes)
        output = copy.deepcopy(linear).to(dtype)
        given = [am.to(dtype).requires_grad_(), lm.to(dtype).requires_grad_(), output, problem.symbols]
        if pruned:
            given.append(begin[..., None] + torch.arange(12, device=backend.device))
        loss = (rl.rnnt_loss_pruned_fused if pruned else rl.rnnt_loss_fused)(
            *given, 1, problem.boundary if bound else None, rows_at_once=0 if kept else 300, reduction="sum"
        )
        multiplied.clear()
        return torch.autograd.grad(loss, [*given[:2], *output.parameters()])

    truth = gradients("all", torch.float64)
    errors = []
    for nodes in ("all", "reached"):
        found = gradients(nodes, torch.float32)
        errors.append([((a - e).abs().max() / e.abs().max()).item() for a, e in zip(found, truth, strict=True)])
        products = sum(multiplied)
        if nodes == "all":
            of_all = products
    assert products < 0.8 * of_all
    for reached, everything in zip(errors[1], errors[0], strict=True):
        assert reached <= 2 * everything + 2e-7


def test_gradients_that_are_no_numbers_reach_what_they_would(host_backends: Backend, monkeypatch) -> None:
    problem = Problem.of(8, 5, batch=2, dtype=torch.float32, device=host_backends.device)
    am, lm, linear = problem.am.nan_to_num(), problem.lm.nan_to_num(), nn.Linear(6, 9)
    found = []
    for nodes in ("all", "reached"):
        monkeypatch.setattr(_nodes, "_CHOICE", nodes)
        leaves = [am.clone().requires_grad_(), lm.clone().requires_grad_()]
        losses = rl.rnnt_loss_fused(*leaves, linear, problem.symbols, 1, problem.boundary, reduction="none")
        infinite = torch.tensor([1.0, torch.inf], device=host_backends.device)
        found.append(torch.autograd.grad(losses, leaves, infinite))
    for reached, everything in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(reached, everything, equal_nan=True)
    monkeypatch.setattr(_nodes, "_CHOICE", "reached")
    grad_label, grad_blank = torch.zeros(1, 4, 3), torch.zeros(1, 1, 4, 4)
    grad_blank[0, 0, 1] = torch.tensor([torch.inf, 1.0, 0.0, 1.0])
    _, which = _nodes.nodes_reached(grad_label, grad_blank, _nodes.all_nodes(1, 4, 4), 0)
    assert which.sum(2).tolist() == [[0, 3, 0, 0]]


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_packed_logits(rnnt_type: str, dtype: torch.dtype, backend: Backend) -> None:
    bounds = [[0, 0, 4, 7], [1, 2, 3, 6], [0, 0, 0, 5], [2, 0, 4, 3]]
    problem = Problem.of(batch=4, boundary=bounds, dtype=dtype, device=backend.device)
    logits = problem.logits.detach().requires_grad_()

    def pack(x):
        return torch.cat([x[b, t0:t1, s0 : s1 + 1].flatten(0, 1) for b, (s0, t0, s1, t1) in enumerate(bounds)])

    expected = rl.rnnt_loss(logits, problem.symbols, 0, problem.boundary, rnnt_type, reduction="none")
    given = pack(problem.logits).requires_grad_()
    with poisoned_outputs():
        loss = rl.rnnt_loss_packed(given, problem.symbols, 0, problem.boundary, rnnt_type, reduction="none")
        torch.testing.assert_close(loss, expected)
        (grad,) = torch.autograd.grad((loss * problem.weights.to(loss.dtype)).sum(), given)
    (truth,) = torch.autograd.grad((expected * problem.weights.to(loss.dtype)).sum(), logits)
    torch.testing.assert_close(grad, pack(truth))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_over_the_logits(dtype: torch.dtype, backend: Backend) -> None:
    problem = Problem.of(dtype=dtype, device=backend.device)
    grads = []
    for reuse in (False, True):
        leaf = problem.logits.detach().requires_grad_()
        logits = leaf.clone()
        loss = rl.rnnt_loss(logits, problem.symbols, 0, problem.boundary, reduction="sum", reuse_logits=reuse)
        grads.append(torch.autograd.grad(loss, leaf)[0])
        assert reuse == torch.equal(logits, grads[-1])
    assert torch.equal(*grads)


def test_what_else_needed_the_logits_notices_that_they_are_overwritten() -> None:
    """The tanh that made them, which keeps its result; a joiner's Linear keeps nothing of its own."""
    problem = Problem.of()
    logits = torch.tanh(problem.logits.detach().nan_to_num().requires_grad_())
    loss = rl.rnnt_loss(logits, problem.symbols, 0, problem.boundary, reuse_logits=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("clamp", [-1.0, 0.02])
@pytest.mark.parametrize("fused", [True, False])
def test_torchaudio_options(clamp: float, fused: bool, backend: Backend) -> None:
    """The clamp applies before what reaches the loss; without fused_log_softmax the logits are log-probabilities."""
    problem = Problem.of(device=backend.device)
    lengths = (problem.boundary[:, 3].int(), problem.boundary[:, 2].int())
    leaf = problem.logits.detach().requires_grad_()
    loss = torchaudio_loss(leaf, problem.symbols.int(), *lengths, 2, clamp, "none", fused)
    exact = problem.logits.detach().requires_grad_()
    scores = reference.joint_scores(exact, problem.symbols, problem.boundary, None, [2], "softmax" if fused else "log_probs")
    truth = -reference_score(*scores, "regular", problem.boundary)
    torch.testing.assert_close(loss, truth)
    (grad,) = torch.autograd.grad((loss * problem.weights).sum(), leaf)
    (expected,) = torch.autograd.grad(truth.sum(), exact)
    if clamp > 0:
        assert (expected.abs() > clamp).any()
        expected = expected.clamp(-clamp, clamp)
    torch.testing.assert_close(grad, expected * problem.weights[:, None, None, None])


@pytest.mark.parametrize("frames_symbols", [(12, 9), (40, 7), (3, 2), (33, 0), (70, 31)], ids=str)
@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_prune_ranges(frames_symbols: tuple[int, int], rnnt_type: str, backend: Backend) -> None:
    frames, symbols = frames_symbols
    problem = Problem.of(frames, symbols, device=backend.device)
    lm, am = problem.lm, problem.am
    _, (px, py) = rl.rnnt_loss_simple(lm, am, problem.symbols, 0, problem.boundary, rnnt_type, return_grad=True)
    px, py = ((t * 2**20).round() / 2**20 for t in (px, py))  # sums are then exact, and equal ones are the same to all
    regular = rnnt_type == "regular"
    for s_range in (2, 3, 5):
        ranges = rl.get_rnnt_prune_ranges(px, py, problem.boundary, s_range)
        rows = min(s_range, symbols + 1)
        assert ranges.shape == (3, frames, rows)
        begin = reference.prune_ranges(
            px.transpose(1, 2), py.transpose(1, 2), problem.boundary, rows, rows - 1 if regular else 1
        )
        assert torch.equal(ranges, begin[..., None] + torch.arange(rows, device=begin.device))
        assert (ranges[:, 0, 0] == 0).all()
        steps = ranges[:, 1:, 0] - ranges[:, :-1, 0]
        assert ((steps >= 0) & (steps <= (rows - 1 if regular else 1))).all()
        for b, (_, _, s1, t1) in enumerate(problem.boundary.tolist()):
            assert ranges[b, t1 - 1, -1] >= s1 or not regular


def test_fewer_rows_than_a_path_needs_are_raised_with_a_warning() -> None:
    problem = Problem.of(2, 8, batch=1)
    _, grads = rl.rnnt_loss_simple(problem.lm, problem.am, problem.symbols, 0, problem.boundary, return_grad=True)
    with pytest.warns(UserWarning, match="s_range: 3 rows a frame cannot reach all symbols, 5 are taken"):
        ranges = rl.get_rnnt_prune_ranges(*grads, problem.boundary, 3)
    assert ranges.shape == (1, 2, 5)
    logits = problem.logits.gather(2, ranges[..., None].expand(-1, -1, -1, 6))
    assert rl.rnnt_loss_pruned(logits, problem.symbols, ranges, 0, problem.boundary).isfinite()


def test_a_gradient_that_is_negated_only_when_it_is_read() -> None:
    logits, symbols = torch.randn(2, 4, 3, 5, requires_grad=True), torch.randint(1, 5, (2, 2))
    loss = rl.rnnt_loss(logits, symbols, 0)
    negated = torch.complex(torch.zeros(()), torch.ones(())).conj().imag
    assert negated.is_neg()
    (of_negated,) = torch.autograd.grad(loss, logits, negated, retain_graph=True)
    torch.testing.assert_close(of_negated, -torch.autograd.grad(loss, logits)[0])


@pytest.mark.parametrize("wrong", ["x", None, [1]])
def test_fastemit_is_a_number_without_gradients_too(wrong: object) -> None:
    with pytest.raises(TypeError):
        rl.rnnt_loss(torch.randn(2, 4, 3, 5), torch.randint(1, 5, (2, 2)), 0, fastemit_lambda=wrong)
