"""The lattice engine: scores, occupancies, bands, durations and best paths, on every backend."""

from __future__ import annotations

import pytest
import torch
from rnnkit_common.testing import Backend, poisoned_outputs, some_sanitized
from rnnkit_common.testing.backends import DEVICES, ORDERS, emulate
from rnnt_loss import reference
from rnnt_loss.recursion import lattice

from .conftest import CSRC

pytestmark = pytest.mark.kernels

# label durations, blank durations, whether a label may arrive at the end
KINDS = {
    "regular": ([0], [1], False),
    "mutual-information": ([0], [1], True),
    "modified": ([1], [1], True),
    "tdt": ([0, 1, 2, 4], [1, 2, 4], False),
    "multi-blank": ([0], [1, 2, 5], False),
    "of all durations": ([0, 1, 2, 3, 4, 5, 7, 9], [1, 2, 3, 4, 5, 6], False),
}
BANDS = [pytest.param(12, 9, 4, marks=pytest.mark.sanitized), (12, 9, 2), (30, 5, 6), (6, 20, 7), (9, 3, 1)]
SIZES = [(1, 0), (0, 0), (1, 1), (3, 2), (9, 8), (8, 9), (17, 3), (5, 33), (40, 20)]


def draw(kind: str, frames: int, symbols: int, device: torch.device, *, batch: int = 3, extra: int = 0):
    labels, blanks, label_end = KINDS[kind]
    torch.manual_seed(frames + 100 * symbols)
    columns = frames + (1 if kind == "mutual-information" else 0)
    label = torch.randn(batch, len(labels), columns, symbols, dtype=torch.float64) - 1
    blank = torch.randn(batch, len(blanks), frames, symbols + 1, dtype=torch.float64) - 1
    return label.to(device), blank.to(device), (labels, blanks), label_end


def bounds(frames: int, symbols: int, device: torch.device) -> torch.Tensor:
    rows = [
        [0, 0, symbols, frames],
        [symbols // 3, frames // 4, symbols - symbols // 4, frames - frames // 5],
        [0, 0, min(1, symbols), min(2, frames)],
    ]
    return torch.tensor(rows, device=device)


def solve(label, blank, durations, boundary, begin, label_end, *, viterbi: bool = False):
    with poisoned_outputs():
        given = (label, blank, *durations, boundary, begin)
        return lattice(*given, label_end=label_end, viterbi=viterbi, occupancies=True)


def expected(label, blank, durations, boundary, begin, label_end):
    leaves = [label.detach().requires_grad_(), blank.detach().requires_grad_()]
    score = reference.lattice(*leaves, *durations, boundary, begin, label_end)
    grads = [None, None]
    if score.requires_grad:
        grads = torch.autograd.grad(score.masked_fill(score == -torch.inf, 0).sum(), leaves, allow_unused=True)
    return score.detach(), *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True))


def poison(label, blank, boundary, begin=None):
    """NaN where nothing may be read: outside of the boundary, and where no label is left."""
    frames, rows = blank.shape[2:]
    valid = reference.inside(boundary, begin, frames, rows)
    blank = torch.where(valid[:, None], blank, torch.nan)
    if begin is None and label.shape[2] == frames:
        label = torch.where(valid[:, None, :, :-1], label, torch.nan)
    return label, blank


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", some_sanitized(SIZES, 5), ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_scores_and_occupancies(kind: str, size: tuple[int, int], dtype: torch.dtype, backend: Backend) -> None:
    label, blank, durations, label_end = draw(kind, *size, backend.device)
    boundary = bounds(*size, backend.device)
    label, blank = poison(label.to(dtype), blank.to(dtype), boundary)
    actual = solve(label, blank, durations, boundary, None, label_end)
    truth = expected(label.double(), blank.double(), durations, boundary, None, label_end)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for a, e in zip(actual, truth, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["regular", "modified", "tdt"])
@pytest.mark.parametrize(("frames", "symbols", "rows"), BANDS)
def test_a_band(kind: str, frames: int, symbols: int, rows: int, backend: Backend) -> None:
    _, _, durations, label_end = draw(kind, frames, symbols, backend.device)
    torch.manual_seed(1)
    boundary = bounds(frames, symbols, backend.device)
    begin = torch.randint(0, 3, (3, frames)).cumsum(1).clamp(max=symbols + 1 - rows).to(backend.device)
    begin[0] = torch.linspace(0, symbols + 1 - rows, frames).long()
    label = torch.randn(3, len(durations[0]), frames, rows, dtype=torch.float64, device=backend.device)
    blank = torch.randn(3, len(durations[1]), frames, rows, dtype=torch.float64, device=backend.device)
    label, blank = poison(label, blank, boundary, begin)
    actual = solve(label, blank, durations, boundary, begin, label_end)
    for a, e in zip(actual, expected(label, blank, durations, boundary, begin, label_end), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_path(kind: str, backend: Backend) -> None:
    """Scores a thousand times as far apart leave one path, whose occupancies are 1."""
    label, blank, durations, label_end = draw(kind, 13, 6, backend.device)
    label, blank = 1000 * label, 1000 * blank
    boundary = bounds(13, 6, backend.device)
    best = solve(label, blank, durations, boundary, None, label_end, viterbi=True)
    soft = solve(label, blank, durations, boundary, None, label_end)
    for b, s in zip(best, soft, strict=True):
        torch.testing.assert_close(b, s, rtol=1e-4, atol=1e-2)
    assert all(set(t.unique().tolist()) <= {0.0, 1.0} for t in best[1:])


@pytest.mark.parametrize("kind", ["regular", "modified", "tdt"])
def test_of_equally_good_paths_one_is_taken(kind: str, backend: Backend) -> None:
    label, blank, durations, label_end = draw(kind, 13, 6, backend.device)
    boundary = torch.tensor([[0, 0, 6, 13]] * len(label), device=backend.device)
    _, labels, blanks = solve(0 * label, 0 * blank, durations, boundary, None, label_end, viterbi=True)
    assert (labels.sum((1, 2, 3)) == 6).all()
    lasting = (torch.tensor(d, dtype=labels.dtype, device=labels.device) for d in durations)
    frames = (t.sum((2, 3)) @ of_arc for t, of_arc in zip((labels, blanks), lasting, strict=True))
    assert (sum(frames) == 13).all()
    assert all(((t == 0) | (t == 1)).all() for t in (labels, blanks))


@pytest.mark.parametrize("kind", ["regular", "modified", "tdt"])
def test_without_a_path_the_score_is_minus_infinity_and_nothing_is_occupied(kind: str, backend: Backend) -> None:
    label, blank, durations, label_end = draw(kind, 6, 3, backend.device)
    label[1, :, :, 1] = -torch.inf  # nothing leads past the second symbol
    boundary = torch.tensor([[0, 0, 3, 6], [0, 0, 3, 6], [0, 0, 3, 0]], device=backend.device)  # nor through no frames
    score, *occupancies = solve(label, blank, durations, boundary, None, label_end)
    assert score.isfinite().tolist() == [True, False, False]
    assert score[1] == score[2] == -torch.inf
    assert all((t[1:] == 0).all() and t[0].sum() > 0 for t in occupancies)


def test_nan_scores_show_in_the_score(backend: Backend) -> None:
    label, blank, durations, label_end = draw("regular", 6, 3, backend.device)
    blank[1, 0, 2, 1] = torch.nan
    score, *_ = solve(label, blank, durations, bounds(6, 3, backend.device)[:1].repeat(3, 1), None, label_end)
    assert score.isnan().tolist() == [False, True, False]


def test_any_strides(backend: Backend) -> None:
    label, blank, durations, label_end = draw("regular", 9, 5, backend.device)
    strided = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (label, blank)]
    boundary = bounds(9, 5, backend.device)
    results = [solve(*tensors, durations, boundary, None, label_end) for tensors in ((label, blank), strided)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(("kind", "symbols"), [("modified", 700), ("tdt", 140), ("of all durations", 140)])
def test_many_symbols(kind: str, symbols: int, backend: Backend) -> None:
    """More than a block has threads: each takes several."""
    frames = 5
    label, blank, durations, label_end = draw(kind, frames, symbols, backend.device, batch=1)
    full = torch.tensor([[symbols - 3, 0, symbols, frames]], device=backend.device)
    actual = solve(label, blank, durations, full, None, label_end)
    part = torch.tensor([[0, 0, 3, frames]], device=backend.device)
    alone = solve(label[..., -3:], blank[..., -4:], durations, part, None, label_end)
    torch.testing.assert_close(actual[0], alone[0])
    torch.testing.assert_close(actual[1][..., -3:], alone[1])
    assert (actual[1][..., :-3] == 0).all()
    label, blank, durations, label_end = draw("regular", frames, symbols, backend.device, batch=1)
    score, labels, blanks = solve(label, blank, durations, None, None, label_end)
    torch.testing.assert_close(labels.sum(2), torch.ones_like(labels[:, :, 0]))
    torch.testing.assert_close(blanks.sum(3), torch.ones_like(blanks[..., 0]))
    assert score.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "rows"), [("regular", 41), ("tdt", 41), ("of all durations", 41), ("tdt", 7), ("regular", 7)]
)
def test_emulated_threads_in_any_order_give_the_same_bits(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    host = torch.device("cpu")
    label, blank, durations, label_end = draw(kind, 24, 40, host)
    begin = None
    if rows < 41:
        begin = torch.linspace(0, 41 - rows, 24).long().expand(3, -1).contiguous()
        label, blank = label[..., :rows], blank[..., :rows]
    results = []
    for order in ORDERS:
        emulate("rnnt_loss", CSRC, order, DEVICES["large"], monkeypatch)
        results.append(solve(label.float(), blank.float(), durations, bounds(24, 40, host), begin, label_end))
    assert results[0][0][:2].isfinite().all()
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("kind", ["regular", "mutual-information", "modified"])
@pytest.mark.parametrize(
    ("frames", "symbols", "device"),
    [
        pytest.param(420, 20, "small", marks=pytest.mark.sanitized),
        (180, 50, "small"),
        (300, 100, "large"),
        (240, 140, "large"),
    ],
)
def test_sequences_that_an_emulated_block_holds_a_part_of(
    kind: str, frames: int, symbols: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU, and the same bits in any order of threads."""
    host = torch.device("cpu")
    label, blank, durations, label_end = draw(kind, frames, symbols, host)
    boundary = bounds(frames, symbols, host)
    planes = poison(label.float(), blank.float(), boundary)
    truth = solve(*planes, durations, boundary, None, label_end)
    results = []
    for order in ORDERS:
        emulate("rnnt_loss", CSRC, order, DEVICES[device], monkeypatch)
        results.append(solve(*planes, durations, boundary, None, label_end))
    for actual, expected in zip(results[0], truth, strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.slow
def test_long_sequences_in_float32(few_backends: Backend) -> None:
    """T = 2000, S = 400: the score to 1e-5 relative, occupancies to 1e-6 absolute, of float64."""
    device = few_backends.device
    if few_backends.name.startswith("emulated"):
        frames, symbols = 300, 60  # a thread switch for each node and diagonal
    else:
        frames, symbols = 2000, 400
    torch.manual_seed(0)
    label = -3 * torch.rand(1, 1, frames, symbols, device=device) - 1
    blank = -2 * torch.rand(1, 1, frames, symbols + 1, device=device)
    actual = solve(label, blank, ([0], [1]), None, None, False)
    leaves = [label.double().requires_grad_(), blank.double().requires_grad_()]
    alpha = torch.cat([torch.zeros(1, 1), torch.full((1, symbols), -torch.inf)], 1).double().to(device)
    # along s: alpha[s] = log sum_{r <= s} e^(x[r] + labels from r to s)
    for labels, blanks in zip(leaves[0][:, 0].unbind(1), leaves[1][:, 0].unbind(1), strict=True):
        upto = torch.nn.functional.pad(labels.cumsum(1), (1, 0))
        alpha = (alpha - upto).logcumsumexp(1) + upto + blanks
    score = alpha[:, -1]
    truth = torch.autograd.grad(score.sum(), leaves)
    torch.testing.assert_close(actual[0].double(), score.detach(), rtol=1e-6, atol=0)
    for a, e in zip(actual[1:], truth, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=0, atol=1e-6)
