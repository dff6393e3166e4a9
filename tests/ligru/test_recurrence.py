"""The recurrence against the fp64 reference, on every backend: values, gradients, all that a caller may pass."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from ligru import reference
from ligru.functional import recurrence
from rnnkit_common.testing import Backend, assert_no_worse, some_sanitized
from rnnkit_common.testing.backends import DEVICES, ORDERS, EmulatedDevice, emulate, kernels_of
from rnnkit_common.testing.cases import poisoned_outputs, saturated, strided, torch_threads
from rnnkit_common.testing.scans import TOLERANCE
from torch import Tensor

from .conftest import CSRC

pytestmark = pytest.mark.kernels


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem. The default is a middling one; a case changes what it is about."""

    batch: int = 3
    steps: int = 7
    units: int = 20
    dtype: torch.dtype = torch.float32
    activation: str = "relu"
    bidirectional: bool = False
    normalize: bool = False
    affine: bool = False
    h0: bool = True
    mask: bool = False
    lengths: tuple[int, ...] | None = None
    reset: tuple[int, ...] | None = None  # steps at which the first sequences begin anew: one each
    layout: str = "contiguous"
    saturated: bool = False
    tf32: bool = False

    @property
    def state_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    def __str__(self) -> str:
        parts = [f"{f.name}={value}" for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default]
        return ",".join(parts).replace("torch.", "").replace(" ", "") or "default"


@dataclasses.dataclass
class Problem:
    """The tensors of a case, always the same, with NaN in the padding; and gradients of out and h_last."""

    inputs: list[Tensor]
    h0: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    mask: Tensor | None
    grads: list[Tensor]

    @staticmethod
    def of(case: Case, device: torch.device) -> Problem:
        torch.manual_seed(0)
        batch, steps, units = case.batch, case.steps, case.units
        state = (case.directions, batch, units)
        g = (saturated if case.saturated else torch.randn)(batch, steps, 2 * units, dtype=torch.float64)
        inputs = [g.to(case.dtype), (torch.randn(2 * units, units) / units**0.5).to(case.dtype)]
        if case.affine:
            inputs += [torch.rand(2 * units).to(case.state_dtype) + 0.5, torch.randn(2 * units).to(case.state_dtype)]
        h0 = torch.randn(state, dtype=case.state_dtype) if case.h0 else None
        mask = torch.bernoulli(torch.full(state, 0.7)).to(case.state_dtype) / 0.7 if case.mask else None
        lengths = torch.tensor(case.lengths) if case.lengths else None
        if lengths is not None:
            inputs[0].masked_fill_((torch.arange(steps) >= lengths[:, None])[..., None], torch.nan)
        reset = None
        if case.reset is not None:
            reset = torch.zeros(batch, steps, dtype=torch.bool)
            reset[torch.arange(len(case.reset)), torch.tensor(case.reset)] = True
        grads = [
            torch.randn(batch, steps, case.directions * units).to(case.dtype),
            torch.randn(state, dtype=case.state_dtype),
        ]
        moved = [None if t is None else t.to(device) for t in (h0, lengths, reset, mask)]
        return Problem([t.to(device) for t in inputs], *moved, [t.to(device) for t in grads])


def run_op(case: Case, problem: Problem) -> list[Tensor]:
    """out, h_last, and the gradients of the inputs and, if there is one, of h0."""
    inputs = [t.detach() for t in problem.inputs]
    if case.layout != "contiguous":
        inputs[0] = strided(inputs[0], case.layout)
        problem = dataclasses.replace(problem, grads=[strided(problem.grads[0], case.layout), problem.grads[1]])
    inputs = [t.requires_grad_() for t in inputs]
    h0 = None if problem.h0 is None else problem.h0.detach().requires_grad_()
    out, h_last, *_ = torch.ops.rnnkit_ligru.recurrence(
        inputs,
        h0,
        problem.lengths,
        problem.reset,
        problem.mask,
        case.activation,
        case.bidirectional,
        case.normalize,
        tf32=case.tf32,
        save=True,
    )
    leaves = [*inputs, *([] if h0 is None else [h0])]
    return [out, h_last, *torch.autograd.grad([out, h_last], leaves, problem.grads)]


def run_reference(case: Case, problem: Problem, dtype: torch.dtype | None) -> list[Tensor]:
    """The same from the reference, with everything in `dtype`, or as it is."""

    def cast(t: Tensor) -> Tensor:
        return t.detach().to(t.dtype if dtype is None else dtype).requires_grad_()

    inputs = [cast(t) for t in problem.inputs]
    h0 = problem.grads[1].new_zeros(problem.grads[1].shape) if problem.h0 is None else problem.h0
    h0 = cast(h0)
    out, h_last = reference.recurrence(
        inputs,
        h0,
        problem.lengths,
        problem.reset,
        None if problem.mask is None else problem.mask.to(h0.dtype),
        activation=case.activation,
        bidirectional=case.bidirectional,
        normalize=case.normalize,
    )
    leaves = [*inputs, *([] if problem.h0 is None else [h0])]
    grads = torch.autograd.grad([out, h_last], leaves, [g.to(h0.dtype) for g in problem.grads], allow_unused=True)
    return [out, h_last, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, leaves, strict=True))]


@functools.cache
def answer(case: Case, device: torch.device, dtype: torch.dtype | None) -> list[Tensor]:
    """What the reference makes of a case's problem, computed once for all backends."""
    return [t.detach() for t in run_reference(case, Problem.of(case, device), dtype)]


def check(case: Case, device: torch.device) -> None:
    problem = Problem.of(case, device)
    with poisoned_outputs():
        actual = run_op(case, problem)
    oracle, baseline = answer(case, device, torch.float64), answer(case, device, None)
    names = ["out", "h_last", "grad of g", "grad of U", *(["grad of weight", "grad of bias"] if case.affine else [])]
    for name, a, o, b in zip([*names, "grad of h0"], actual, oracle, baseline, strict=False):
        scale = o.abs().max().clamp(min=1) if o.numel() > 0 else 1  # sums over time have the rounding of all they add
        # 16-bit gates are kept as they are rounded, which the reference does not do
        tolerance = TOLERANCE[case.dtype] * (4 if case.dtype.itemsize == 2 else 1)
        if case.tf32:
            tolerance = 4 * TOLERANCE[torch.float16]  # as many bits behind the point, and h rounded to them at each step
        assert_no_worse(name, a / scale, o / scale, b.to(a.dtype) / scale, tolerance)


KINDS: list[dict[str, Any]] = [
    {"activation": activation, "normalize": normalize} for activation in reference.ACTIVATIONS for normalize in (False, True)
]
# relu's gradient jumps at 0, where 16-bit roundings fall on either side: those dtypes are tested with the smooth ones
CASES = [
    Case(),
    *(Case(**kind, bidirectional=True, mask=True, lengths=(7, 4, 0)) for kind in KINDS),
    *(Case(**kind, dtype=torch.float64) for kind in KINDS),
    *(Case(normalize=n, affine=n, bidirectional=True, activation="tanh", reset=(0, 3, 6)) for n in (False, True)),
    *(Case(normalize=n, bidirectional=True, lengths=(7, 4, 2), reset=(6, 4, 1), dtype=torch.float64) for n in (False, True)),
    Case(units=70, batch=9, reset=tuple(range(7)), activation="tanh", dtype=torch.bfloat16),
    *(Case(activation="tanh", normalize=n, dtype=d, units=33) for n in (False, True) for d in TOLERANCE),
    *(Case(activation="sin", normalize=n, dtype=torch.bfloat16, units=100, batch=9) for n in (False, True)),
    *(Case(steps=s, normalize=n, h0=s != 1) for s in (0, 1, 2, 31, 33) for n in (False, True)),
    *(Case(units=u, normalize=n, steps=4) for u in (1, 3, 8, 15, 16, 17, 31, 32, 65, 100) for n in (False, True)),
    *(Case(batch=b, bidirectional=b % 2 == 0, units=9, normalize=b > 8) for b in (0, 1, 7, 8, 9, 26)),
    *(Case(layout=layout, normalize=True) for layout in ("time-major", "offset", "channels")),
    Case(layout="offset", dtype=torch.bfloat16, activation="tanh"),
    *(Case(saturated=True, activation="tanh", dtype=d) for d in (torch.float32, torch.float64)),
    *(Case(normalize=True, affine=True, bidirectional=True, lengths=(2, 7, 1), dtype=d) for d in (torch.float32, torch.float64)),
    Case(normalize=True, affine=True, activation="tanh", dtype=torch.bfloat16),
    Case(units=5, activation="tanh", dtype=torch.bfloat16),  # tensor cores multiply by columns that no unit fills
    *(Case(units=u, batch=9, activation="tanh", normalize=n, tf32=True) for u in (5, 33, 70) for n in (False, True)),
    # groups of several blocks, and on twelve multiprocessors more rows than groups
    *(Case(batch=30, units=70, bidirectional=True, steps=3, normalize=n, activation="tanh") for n in (False, True)),
    *(Case(units=150, steps=5, bidirectional=True, lengths=(5, 2, 0), normalize=n, mask=True) for n in (False, True)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*some_sanitized(CASES[:-4], 12), *CASES[-4:]], ids=str)  # the last are large
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    check(case, backend.device)


@pytest.mark.parametrize("normalize", [False, True])
def test_tf32_is_multiplied_where_it_may_and_can_be(normalize: bool, backend: Backend) -> None:
    case = Case(units=33, activation="tanh", normalize=normalize)
    problem = Problem.of(case, backend.device)
    exact, shortened = (run_op(dataclasses.replace(case, tf32=tf32), problem) for tf32 in (False, True))
    steps = backend.environment.get("RNNKIT_LIGRU_ENGINE") == "steps"  # whose products are torch's
    major = torch.cuda.get_device_capability()[0] if backend.device.type == "cuda" else 0
    capability = backend.emulated.capability if backend.emulated else 10 * major
    for a, b in zip(exact, shortened, strict=True):
        assert torch.equal(a, b) == (steps or capability < 80)


@pytest.mark.parametrize("units", [250, 550])
@pytest.mark.parametrize("normalize", [False, True])
def test_sizes_that_are_used_emulated_too(units: int, normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, and emulated with all the blocks that such a size takes."""
    case = Case(batch=4, steps=3, units=units, normalize=normalize, activation="tanh", bidirectional=True)
    check(case, torch.device("cpu"))
    if units < 300:
        emulate("ligru", CSRC, "forward", DEVICES["large"], monkeypatch)
        for engine, dtype in (("cluster", torch.float32), ("grid", torch.bfloat16)):
            monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
            check(dataclasses.replace(case, dtype=dtype, steps=2), torch.device("cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cluster", "async", "grid", "steps"])
@pytest.mark.parametrize("normalize", [False, True])
def test_emulated_orders_of_threads_agree_bit_for_bit(engine: str, normalize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=9, steps=5, units=80, lengths=(5, 4, 3, 2, 1, 0, 5, 5, 5), normalize=normalize, bidirectional=True)
    problem = Problem.of(case, torch.device("cpu"))
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    results = []
    for order in ORDERS:
        emulate(
            "ligru", CSRC, order, EmulatedDevice(2 if engine == "grid" else 20, 90), monkeypatch
        )  # one group takes all the rows
        results.append(run_op(case, problem))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("batch", "units"), [(1, 300), (5, 300), (40, 30)])
def test_threads_share_rows_and_units(
    batch: int, units: int, normalize: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads than cores too: they wait for each other at every step."""
    monkeypatch.setenv("RNNKIT_LIGRU_CORES", str(threads))
    case = Case(batch=batch, steps=20, units=units, dtype=torch.float64, normalize=normalize, bidirectional=True)
    problem = Problem.of(case, torch.device("cpu"))
    expected = run_reference(case, problem, torch.float64)
    with torch_threads(threads):
        actual = run_op(case, problem)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_nothing_is_kept_without_need(backend: Backend) -> None:
    g, u = torch.randn(2, 5, 6, device=backend.device), torch.randn(6, 3, device=backend.device)
    for normalize in (False, True):
        kept = torch.ops.rnnkit_ligru.recurrence([g, u], normalize=normalize, save=True)
        bare = torch.ops.rnnkit_ligru.recurrence([g, u], normalize=normalize)
        assert torch.equal(kept[0], bare[0])
        assert torch.equal(kept[1], bare[1])
        assert [t.numel() for t in bare[2:]] == [0, 0, 0]


def test_every_engine_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.device.type == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    g, u = torch.randn(2, 5, 6), torch.randn(6, 3)
    for value in (-1, 6):
        with pytest.raises(RuntimeError, match="lengths"):
            torch.ops.rnnkit_ligru.recurrence([g, u], lengths=torch.tensor([5, value]))


def test_an_emulated_engine_that_cannot_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate("ligru", CSRC, "forward", EmulatedDevice(1, 90), monkeypatch)
    g, u = torch.randn(1, 2, 600), torch.randn(600, 300)
    for engine, words in (("grid", "cannot hold 300 units"), ("warp", "may be cluster, async, grid or steps")):
        monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
        with pytest.raises(RuntimeError, match=words):
            torch.ops.rnnkit_ligru.recurrence([g, u])
    monkeypatch.delenv("RNNKIT_LIGRU_ENGINE")
    torch.ops.rnnkit_ligru.recurrence([g, u])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("lengths", "bidirectional"), [([0, 13, 5, 1, 13, 2, 7, 0, 12], True), ([13, 13, 12, 11, 1, 2, 0, 1], False)], ids=str
)
def test_sequences_of_a_batch_are_as_if_alone(
    lengths: list[int], bidirectional: bool, threads: int, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the others are, in whatever order: those that have ended take no part in the products."""
    monkeypatch.setenv("RNNKIT_LIGRU_CORES", str(threads))
    torch.manual_seed(0)
    batch, directions, units = len(lengths), 2 if bidirectional else 1, 80  # enough work for threads to share the rows
    g = torch.randn(batch, 13, 2 * units, dtype=torch.float64, requires_grad=True)
    u = (0.1 * torch.randn(2 * units, units, dtype=torch.float64)).requires_grad_()
    h0 = torch.randn(directions, batch, units, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(batch, 13, units * directions, dtype=torch.float64)
    options = {"bidirectional": bidirectional, "normalize": normalize, "nonlinearity": "tanh"}
    with torch_threads(threads):
        out, last = recurrence(g, u, h0, lengths=torch.tensor(lengths), **options)
        grads = torch.autograd.grad((out * weights).sum() + last.sum(), [g, u, h0])
    alone = [recurrence(g[b : b + 1, :n], u, h0[:, b : b + 1], **options) for b, n in enumerate(lengths)]
    total = sum((o * weights[b : b + 1, : o.shape[1]]).sum() + h.sum() for b, (o, h) in enumerate(alone))
    for b, (o, h) in enumerate(alone):
        torch.testing.assert_close(out[b : b + 1, : lengths[b]], o)
        torch.testing.assert_close(last[:, b : b + 1], h)
        assert (out[b, lengths[b] :] == 0).all()
    for actual, expected in zip(grads, torch.autograd.grad(total, [g, u, h0]), strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_training_step_is_a_kernel_each_way_beyond_the_product_for_u(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 5, 2 * 8), (2 * 8, 8))]

    def step() -> None:
        out = torch.ops.rnnkit_ligru.recurrence(leaves, save=True)[0]
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    assert kernels_of("ligru", CSRC, step, monkeypatch) == (2, {"matmul": 1})
