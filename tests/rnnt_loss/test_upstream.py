"""Drop-in for fast_rnnt, k2 and torchaudio: their calls as users write them, and numbers that theirs gave. NeMo's are in test_nemo.py."""

from __future__ import annotations

import pytest
import rnnt_loss as fast_rnnt
import torch
from rnnt_loss import PrunedRNNTLoss, RNNTLoss, reference
from rnnt_loss.torchaudio import rnnt_loss as torchaudio_loss
from torch import nn

from .problems import TYPES, Problem, all_paths, reference_score

B, T, S, C = 2, 9, 4, 7


def lengths() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([4, 2]), torch.tensor([9, 6])  # target_lengths, num_frames


def boundary() -> torch.Tensor:
    boundary = torch.zeros((B, 4), dtype=torch.int64)
    boundary[:, 2], boundary[:, 3] = lengths()
    return boundary


class TestExamples:
    """Of fast_rnnt's README, but for the import and, in the last, the order of the logits' dimensions."""

    am, lm = torch.randn((B, T, C)), torch.randn((B, S + 1, C))
    symbols = torch.randint(0, C, (B, S))
    termination_symbol = 0

    def test_simple_and_smoothed(self) -> None:
        arguments = {
            "lm": self.lm,
            "am": self.am,
            "symbols": self.symbols,
            "termination_symbol": self.termination_symbol,
            "boundary": boundary(),
            "reduction": "sum",
        }
        simple = fast_rnnt.rnnt_loss_simple(**arguments)
        assert simple.shape == ()
        smoothed = fast_rnnt.rnnt_loss_smoothed(**arguments, lm_only_scale=0.25, am_only_scale=0.0)
        assert smoothed.isfinite()
        torch.testing.assert_close(fast_rnnt.rnnt_loss_smoothed(**arguments, lm_only_scale=0, am_only_scale=0), simple)

    def test_pruned(self) -> None:
        simple_loss, (px_grad, py_grad) = fast_rnnt.rnnt_loss_simple(
            lm=self.lm,
            am=self.am,
            symbols=self.symbols,
            termination_symbol=self.termination_symbol,
            boundary=boundary(),
            reduction="sum",
            return_grad=True,
        )
        assert px_grad.shape == (B, S, T + 1)
        assert py_grad.shape == (B, S + 1, T)
        ranges = fast_rnnt.get_rnnt_prune_ranges(px_grad=px_grad, py_grad=py_grad, boundary=boundary(), s_range=3)
        am_pruned, lm_pruned = fast_rnnt.do_rnnt_pruning(am=self.am, lm=self.lm, ranges=ranges)
        pruned_loss = fast_rnnt.rnnt_loss_pruned(
            logits=am_pruned + lm_pruned,
            symbols=self.symbols,
            ranges=ranges,
            termination_symbol=self.termination_symbol,
            boundary=boundary(),
            reduction="sum",
        )
        assert pruned_loss >= simple_loss

    def test_unpruned(self) -> None:
        loss = fast_rnnt.rnnt_loss(
            logits=torch.randn((B, T, S + 1, C)),
            symbols=self.symbols,
            termination_symbol=self.termination_symbol,
            boundary=boundary(),
            reduction="sum",
        )
        assert loss.isfinite()
        with pytest.raises(ValueError, match=r"logits: expected shape \(B, T, S \+ 1, C\), frames before symbols"):
            fast_rnnt.rnnt_loss(torch.randn((B, S, T, C)), self.symbols, self.termination_symbol, boundary())


def test_the_call_pattern_of_icefall() -> None:
    """The four calls of pruned_transducer_stateless7 and zipformer, with autocast around the joiner."""
    torch.manual_seed(0)
    encoder_out, decoder_out = torch.randn(B, T, 16, requires_grad=True), torch.randn(B, S + 1, 12, requires_grad=True)
    symbols = torch.randint(1, C, (B, S))
    model = PrunedRNNTLoss(16, 12, 20, C, s_range=3)
    names = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
    assert names == {
        "simple_am_proj",
        "simple_lm_proj",
        "joiner.encoder_proj",
        "joiner.decoder_proj",
        "joiner.output_linear",
    }
    lm, am = model.simple_lm_proj(decoder_out), model.simple_am_proj(encoder_out)
    simple_loss, (px_grad, py_grad) = fast_rnnt.rnnt_loss_smoothed(
        lm=lm.float(),
        am=am.float(),
        symbols=symbols,
        termination_symbol=0,
        lm_only_scale=0.25,
        am_only_scale=0.0,
        boundary=boundary(),
        reduction="sum",
        return_grad=True,
    )
    ranges = fast_rnnt.get_rnnt_prune_ranges(px_grad=px_grad, py_grad=py_grad, boundary=boundary(), s_range=3)
    am_pruned, lm_pruned = fast_rnnt.do_rnnt_pruning(
        am=model.joiner.encoder_proj(encoder_out), lm=model.joiner.decoder_proj(decoder_out), ranges=ranges
    )
    logits = model.joiner(am_pruned, lm_pruned, project_input=False)
    pruned_loss = fast_rnnt.rnnt_loss_pruned(
        logits=logits.float(),
        symbols=symbols,
        ranges=ranges,
        termination_symbol=0,
        boundary=boundary(),
        reduction="sum",
    )
    in_one = model(encoder_out, decoder_out, symbols, boundary())
    parameters = [encoder_out, decoder_out, *model.parameters()]
    results = []
    for simple, pruned in ((simple_loss, pruned_loss), in_one):
        loss = 0.5 * simple + 0.1 * pruned
        results.append([loss, *torch.autograd.grad(loss, parameters)])
    for a, e in zip(*results, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        halved = model(encoder_out, decoder_out, symbols, boundary())
    torch.testing.assert_close(halved[0], in_one[0])
    torch.testing.assert_close(halved[1], in_one[1], rtol=2e-2, atol=0)
    assert [model.scales(step) for step in (0, 1000, 2000, 5000)] == [(1.0, 0.1), (0.75, 0.55), (0.5, 1.0), (0.5, 1.0)]


class TestNumbersOfFastRnnt:
    """The input of its test_rnnt_loss_basic, in float64; the first three checked by enumeration of paths, below too."""

    lm = torch.tensor([[[0, 0, 1], [0, 1, 1], [1, 0, 1], [2, 2, 0]]], dtype=torch.float64)
    am = torch.tensor([[[0, 1, 2], [0, 0, 0], [0, 2, 4], [0, 3, 3]]], dtype=torch.float64)
    symbols = torch.tensor([[0, 1, 0]])

    @pytest.mark.parametrize(
        ("rnnt_type", "simple", "smoothed"),
        [
            ("regular", 7.504013356022, 7.196527016606),
            ("modified", 6.545785004194, 5.691080888709),
            ("constrained", 9.658769328591, 8.992679759283),
        ],
    )
    def test_losses(self, rnnt_type: str, simple: float, smoothed: float) -> None:
        arguments = (self.lm, self.am, self.symbols, 2)
        loss = fast_rnnt.rnnt_loss_simple(*arguments, rnnt_type=rnnt_type)
        assert loss.item() == pytest.approx(simple, abs=1e-11)
        logits = self.am[:, :, None] + self.lm[:, None]
        assert fast_rnnt.rnnt_loss(logits, self.symbols, 2, rnnt_type=rnnt_type).item() == pytest.approx(simple, abs=1e-11)
        px, py = fast_rnnt.get_rnnt_logprobs(*arguments, rnnt_type=rnnt_type)
        assert px.shape == (1, 3, 5 if rnnt_type == "regular" else 4)
        assert py.shape == (1, 4, 4)
        assert fast_rnnt.mutual_information_recursion(px, py).item() == pytest.approx(-simple, abs=1e-11)
        loss = fast_rnnt.rnnt_loss_smoothed(*arguments, 0.25, 0.1, rnnt_type=rnnt_type)
        assert loss.item() == pytest.approx(smoothed, abs=1e-11)

    def test_more_of_the_regular_one(self) -> None:
        arguments = (self.lm, self.am, self.symbols, 2)
        assert fast_rnnt.rnnt_loss_smoothed(*arguments, 0.0, 0.333).item() == pytest.approx(6.838260349531, abs=1e-11)
        assert fast_rnnt.rnnt_loss_simple(*arguments, delay_penalty=0.1).item() == pytest.approx(7.531422694458, abs=1e-11)

    @pytest.mark.parametrize(
        ("rows", "plain", "hat"),
        [(2, 10.147549888169, 13.533322283611), (3, 7.842867466908, 9.404988252343), (4, 7.504013356022, 5.925719554641)],
    )
    def test_pruned(self, rows: int, plain: float, hat: float) -> None:
        order = [2, 0, 1]  # the blank first
        lm, am, symbols = self.lm[..., order], self.am[..., order], self.symbols + 1
        bounds = torch.tensor([[0, 0, 3, 4]])
        _, grads = fast_rnnt.rnnt_loss_simple(lm, am, symbols, 0, bounds, return_grad=True)
        ranges = fast_rnnt.get_rnnt_prune_ranges(*grads, bounds, rows)
        am_pruned, lm_pruned = fast_rnnt.do_rnnt_pruning(am, lm, ranges)
        logits = am_pruned + lm_pruned
        for use_hat_loss, expected in ((False, plain), (True, hat)):
            loss = fast_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, bounds, use_hat_loss=use_hat_loss)
            assert loss.item() == pytest.approx(expected, abs=1e-11)


class TestNumbersOfTorchaudio:
    """Its reference costs and gradients, which are warp-transducer's."""

    def test_one_sequence_with_the_last_class_as_blank(self) -> None:
        rows = [
            [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
            [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
        ]
        gradients = [
            [0.17703132, -0.39992708, 0.17703132, 0.17703132, -0.13116692],
            [0.12247062, 0.12247062, -0.181684, 0.12247062, -0.1857276],
            [0.06269141, 0.06269141, 0.06928471, 0.12624498, -0.32091248],
            [0.05456069, -0.2182428, 0.05456069, 0.05456069, 0.05456069],
            [0.12073967, 0.12073967, -0.48295838, 0.12073967, 0.12073967],
            [0.30741188, 0.16871123, 0.18645471, 0.16871123, -0.83128875],
        ]
        logits = torch.tensor([rows], requires_grad=True)
        two = torch.tensor([2], dtype=torch.int32)
        loss = torchaudio_loss(logits, torch.tensor([[1, 2]], dtype=torch.int32), two, two)
        assert loss.item() == pytest.approx(5.09566688538, rel=1e-6)
        loss.backward()
        torch.testing.assert_close(logits.grad.view(6, 5), torch.tensor(gradients), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_two_sequences(self, dtype: torch.dtype) -> None:
        values = """0.065357 0.787530 0.081592 0.529716 0.750675 0.754135 0.609764 0.868140 0.622532 0.668522 0.858039 0.164539
            0.989780 0.944298 0.603168 0.946783 0.666203 0.286882 0.094184 0.366674 0.736168 0.166680 0.714154 0.399400
            0.535982 0.291821 0.612642 0.324241 0.800764 0.524106 0.779195 0.183314 0.113745 0.240222 0.339470 0.134160
            0.505562 0.051597 0.640290 0.430733 0.829473 0.177467 0.320700 0.042883 0.302803 0.675178 0.569537 0.558474
            0.083132 0.060165 0.107958 0.748615 0.943918 0.486356 0.418199 0.652408 0.024243 0.134582 0.366342 0.295830
            0.923670 0.689929 0.741898 0.250005 0.603430 0.987289 0.592606 0.884672 0.543450 0.660770 0.377128 0.358021"""
        logits = torch.tensor([float(v) for v in values.split()]).view(2, 4, 3, 3).to(dtype).requires_grad_()
        targets, ends = torch.tensor([[1, 2], [1, 1]]).int(), torch.tensor([4, 4]).int()
        loss = RNNTLoss(blank=0, reduction="none")(logits, targets, ends, torch.tensor([2, 2]).int())
        tolerance = 1e-5 if dtype == torch.float32 else 1e-3
        assert loss.tolist() == pytest.approx([4.2806528590890736, 3.9384369822503591], rel=tolerance)
        loss.sum().backward()
        expected = [-0.186844, -0.062555, 0.249399, -0.203377, 0.202399, 0.000977, -0.141016, 0.079123, 0.061893]
        assert logits.grad.flatten()[:9].tolist() == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-3)


def log_prob_of_paths(logits: torch.Tensor, symbols: torch.Tensor, blank: int, rnnt_type: str) -> torch.Tensor:
    log_probs = logits.log_softmax(-1)
    scores = []
    for path in all_paths(logits.shape[0], len(symbols), rnnt_type):
        scores.append(sum(log_probs[t, s, symbols[s] if kind == "label" else blank] for kind, t, s in path))
    return torch.stack(scores).logsumexp(0)


@pytest.mark.parametrize("rnnt_type", TYPES)
@pytest.mark.parametrize("shape", [(4, 3), (5, 1), (3, 3), (6, 2), (1, 1), (4, 0)], ids=str)
def test_all_paths_counted_one_by_one(rnnt_type: str, shape: tuple[int, int]) -> None:
    frames, count = shape
    logits = torch.randn(1, frames, count + 1, 5, dtype=torch.float64)
    symbols = torch.randint(0, 5, (1, count))
    expected = -log_prob_of_paths(logits[0], symbols[0], 1, rnnt_type)
    torch.testing.assert_close(fast_rnnt.rnnt_loss(logits, symbols, 1, rnnt_type=rnnt_type), expected)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_occupancies_count_symbols_and_frames(rnnt_type: str) -> None:
    problem = Problem.of(12, 5)
    arguments = (problem.logits, problem.symbols, 0, problem.boundary, rnnt_type)
    _, (px_grad, py_grad) = fast_rnnt.rnnt_loss(*arguments, return_grad=True)
    ends, frames = problem.boundary[:, 2].double(), problem.boundary[:, 3].double()
    torch.testing.assert_close(px_grad.sum((1, 2)), ends)
    torch.testing.assert_close(py_grad.sum((1, 2)), frames if rnnt_type == "regular" else frames - ends)
    in_time = torch.arange(12) < frames[:, None]
    per_frame = py_grad.sum(1) + (px_grad.sum(1) if rnnt_type != "regular" else 0)
    torch.testing.assert_close(per_frame, in_time.double())
    times = fast_rnnt.expected_emission_times(px_grad)
    assert ((times[0, 1:] >= times[0, :-1]) & (times[0, 1:] < 12)).all()


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_a_narrower_band_never_has_more_paths(rnnt_type: str) -> None:
    problem = Problem.of(12, 6)
    arguments = (problem.symbols, 0, problem.boundary, rnnt_type)
    _, grads = fast_rnnt.rnnt_loss_simple(problem.lm, problem.am, *arguments, return_grad=True)
    full = fast_rnnt.rnnt_loss(problem.logits, *arguments, reduction="none")
    wider = torch.full_like(full, torch.inf)
    for rows in (2, 3, 5, 7):
        ranges = fast_rnnt.get_rnnt_prune_ranges(*grads, problem.boundary, rows)
        logits = problem.logits.gather(2, ranges[..., None].expand(-1, -1, -1, 6))
        pruned = fast_rnnt.rnnt_loss_pruned(
            logits, problem.symbols, ranges, 0, problem.boundary, rnnt_type, reduction="none"
        )
        assert (full <= pruned + 1e-12).all()
        assert pruned[0] <= wider[0]
        wider = pruned
    torch.testing.assert_close(pruned, full)


@pytest.mark.parametrize("rnnt_type", TYPES)
def test_log_probabilities_and_the_recursion_are_the_losses(rnnt_type: str) -> None:
    problem = Problem.of(10, 5)
    bounds, symbols = problem.boundary, problem.symbols
    options = {"boundary": bounds, "rnnt_type": rnnt_type}
    _, grads = fast_rnnt.rnnt_loss_simple(problem.lm, problem.am, symbols, 1, return_grad=True, **options)
    ranges = fast_rnnt.get_rnnt_prune_ranges(*grads, bounds, 3)
    logits = problem.logits.gather(2, ranges[..., None].expand(-1, -1, -1, 6))
    given = {
        "joint": (problem.logits, symbols, 1),
        "smoothed": (problem.lm, problem.am, symbols, 1, 0.1, 0.1),
        "pruned": (logits, symbols, ranges, 1),
        "hat": (logits, symbols, ranges, 1),
    }
    logprobs = {
        "joint": fast_rnnt.get_rnnt_logprobs_joint,
        "smoothed": fast_rnnt.get_rnnt_logprobs_smoothed,
        "pruned": fast_rnnt.get_rnnt_logprobs_pruned,
        "hat": fast_rnnt.get_hat_logprobs_pruned,
    }
    losses = {
        "joint": fast_rnnt.rnnt_loss,
        "smoothed": fast_rnnt.rnnt_loss_smoothed,
        "pruned": fast_rnnt.rnnt_loss_pruned,
        "hat": lambda *a, **k: fast_rnnt.rnnt_loss_pruned(*a, **k, use_hat_loss=True),
    }
    for name, arguments in given.items():
        px, py = logprobs[name](*arguments, **options)
        score, (gx, gy) = fast_rnnt.mutual_information_recursion(px, py, bounds, return_grad=True)
        loss, (px_grad, py_grad) = losses[name](*arguments, **options, reduction="none", return_grad=True)
        torch.testing.assert_close(loss, -score)
        torch.testing.assert_close(gx, px_grad)
        torch.testing.assert_close(gy, py_grad)


def test_the_recursion_told_apart_by_term() -> None:
    px = [torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    py = [torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    terms = fast_rnnt.joint_mutual_information_recursion(px, py)
    assert terms.shape == (3, 2)
    total, (gx, _) = fast_rnnt.mutual_information_recursion(sum(px), sum(py), return_grad=True)
    torch.testing.assert_close(terms.sum(0), total)
    torch.testing.assert_close(torch.autograd.grad(terms[1].sum(), px[1])[0], gx)


def test_fastemit_scales_the_gradients_of_labels_alone() -> None:
    problem = Problem.of(boundary=[[0, 0, 4, 7]] * 3)
    logits = problem.logits.requires_grad_()
    label, blank = reference.joint_scores(logits, problem.symbols, problem.boundary, None, [0])
    seen = (1.3 * label - 0.3 * label.detach(), blank)
    loss = fast_rnnt.rnnt_loss(logits, problem.symbols, 0, fastemit_lambda=0.3, reduction="sum")
    expected = -reference_score(*seen, "regular", problem.boundary).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


def test_emission_windows_leave_only_paths_within_them() -> None:
    logits, symbols = torch.randn(1, 5, 3, 4, dtype=torch.float64), torch.tensor([[1, 2]])
    window = torch.tensor([[[0, 2], [2, 3]]])
    log_probs = logits[0].log_softmax(-1)
    scores = []
    for path in all_paths(5, 2, "regular"):
        times = [t for kind, t, _ in path if kind == "label"]
        if 0 <= times[0] <= 2 <= times[1] <= 3:
            scores.append(sum(log_probs[t, s, symbols[0, s] if kind == "label" else 0] for kind, t, s in path))
    loss = fast_rnnt.rnnt_loss(logits, symbols, 0, emission_window=window)
    torch.testing.assert_close(loss, -torch.stack(scores).logsumexp(0))


def test_the_best_alignment() -> None:
    logits, symbols = torch.randn(2, 6, 4, 5, dtype=torch.float64), torch.randint(0, 5, (2, 3))
    score, frames = fast_rnnt.rnnt_align(logits, symbols, 0)
    for b in range(2):
        log_probs = logits[b].log_softmax(-1)
        best = max(
            (sum(log_probs[t, s, symbols[b, s] if kind == "label" else 0].item() for kind, t, s in path), path)
            for path in all_paths(6, 3, "regular")
        )
        assert score[b].item() == pytest.approx(best[0])
        assert frames[b].tolist() == [t for kind, t, _ in best[1] if kind == "label"]
    short = fast_rnnt.rnnt_align(logits, symbols, 0, torch.tensor([[0, 0, 2, 6], [0, 0, 3, 2]]), "modified")
    assert short[1][0, 2] == -1
    assert short[1][1].tolist() == [-1, -1, -1]  # three symbols do not fit into two frames


@pytest.mark.parametrize("rnnt_type", ["modified", "constrained"])
def test_too_few_frames_are_told_apart(rnnt_type: str) -> None:
    problem = Problem.of(5, 4, boundary=[[0, 0, 4, 3], [0, 0, 4, 4], [0, 0, 2, 5]])
    logits = problem.logits.requires_grad_()
    arguments = (logits, problem.symbols, 0, problem.boundary, rnnt_type)
    assert fast_rnnt.rnnt_loss(*arguments, reduction="none").isinf().tolist() == [True, False, False]
    loss = fast_rnnt.rnnt_loss(*arguments, reduction="none", zero_infinity=True)
    assert loss[0] == 0
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert (grad[0] == 0).all()
    assert grad.isfinite().all()


def test_hat_of_blank_alone_and_of_a_blank_as_label() -> None:
    """Its labels share what the blank leaves; the blank, as one of them, has nothing of it."""
    symbols = torch.tensor([[0, 0]])
    empty = torch.tensor([[0, 0, 0, 4]])
    for classes in (1, 5):
        logits = torch.randn(1, 4, 3, classes, requires_grad=True)
        assert fast_rnnt.rnnt_loss(logits, symbols, 0, use_hat_loss=True).isinf()
        loss = fast_rnnt.rnnt_loss(logits, symbols, 0, empty, use_hat_loss=True)
        torch.testing.assert_close(loss, -nn.functional.logsigmoid(logits[0, :, 0, 0]).sum())
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_am_only_smoothing_of_16_bits_loses_only_the_inputs_rounding() -> None:
    lm, am = torch.randn(2, 4, 50).bfloat16(), torch.randn(2, 9, 50).bfloat16()
    arguments = (torch.randint(0, 50, (2, 3)), 0, 0.1, 0.3)
    expected = fast_rnnt.rnnt_loss_smoothed(lm.double(), am.double(), *arguments)
    actual = fast_rnnt.rnnt_loss_smoothed(lm, am, *arguments)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=0)


def test_with_cuda_tells_what_was_built() -> None:
    assert isinstance(fast_rnnt.with_cuda(), bool)


def test_a_joiner_without_bias_and_one_that_multiplies() -> None:
    am, lm = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    symbols, linear = torch.randint(0, 6, (2, 3)), nn.Linear(3, 6, bias=False)
    expected = fast_rnnt.rnnt_loss(linear(torch.tanh(am[:, :, None] + lm[:, None])), symbols, 0)
    torch.testing.assert_close(fast_rnnt.rnnt_loss_fused(am, lm, linear, symbols, 0), expected)
    times = fast_rnnt.rnnt_loss_fused(am, lm, lambda a, b: linear(a * b), symbols, 0, rows_at_once=9)
    torch.testing.assert_close(times, fast_rnnt.rnnt_loss(linear(am[:, :, None] * lm[:, None]), symbols, 0))
