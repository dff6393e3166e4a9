"""The scan ops against the fp64 reference, on every backend: values, gradients, and everything a caller may pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mingru import functional, reference
from rnnkit_common.testing import Backend, assert_no_worse, poisoned_outputs, saturated, strided
from rnnkit_common.testing.backends import MULTIPROCESSORS, ORDERS
from torch import Tensor

from .conftest import CSRC

pytestmark = pytest.mark.kernels

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem. The default is a middling one; each case below changes what it is about."""

    batch: int = 2
    steps: int = 40
    channels: int = 33
    dtype: torch.dtype = torch.float32
    gates: int = 1
    activation: str = "g"
    h0: bool = True
    lengths: tuple[int, ...] | None = None
    reset: tuple[int, ...] | None = None  # steps at which every sequence starts afresh
    reverse: bool = False
    layout: str = "packed"
    saturated: bool = False
    initial: float | None = None

    def __str__(self) -> str:
        default = Case()
        changed = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [f"{k}={v}" for k, v in changed.items() if v != getattr(default, k)]
        return ",".join(parts).replace("torch.", "").replace(" ", "") or "default"


CASES = [
    Case(),
    *(Case(steps=steps, channels=3) for steps in (0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129)),
    *(Case(steps=19, channels=channels) for channels in (1, 3, 31, 32, 63, 64, 65, 100)),
    Case(batch=0),
    Case(steps=1, h0=False),
    *(Case(gates=2, activation=activation) for activation in ("g", "identity", "tanh")),
    *(Case(activation=activation, h0=False, reset=(5,)) for activation in ("identity", "tanh")),
    *(Case(gates=gates, dtype=dtype, steps=70) for gates in (1, 2) for dtype in TOLERANCE),
    *(Case(gates=gates, saturated=True, dtype=dtype) for gates in (1, 2) for dtype in (torch.float32, torch.float64)),
    *(Case(layout=layout, dtype=dtype) for layout in ("planes", "time-major", "offset", "channels")
      for dtype in (torch.float32, torch.bfloat16)),
    Case(lengths=(40, 17)),
    Case(lengths=(0, 1), reverse=True, h0=False),
    Case(lengths=(33, 16), reverse=True, layout="time-major"),
    Case(reset=(0, 1, 20, 39)),
    Case(reset=(0, 7, 39), reverse=True, lengths=(40, 30), initial=-3.0, gates=2),
    Case(initial=0.0, h0=False),
]  # fmt: skip


def make(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """The planes (B, T, D), each its own tensor, and h0, lengths and reset; padding is NaN."""
    torch.manual_seed(0)
    shape = (case.batch, case.steps, case.channels)
    draw = saturated if case.saturated else torch.randn
    planes = [draw(*shape, dtype=torch.float64).to(device, case.dtype) for _ in range(case.gates + 1)]
    state_dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    h0 = torch.randn(case.batch, case.channels, dtype=state_dtype).to(device) if case.h0 else None
    lengths = torch.tensor(case.lengths, device=device) if case.lengths else None
    reset = None
    if case.reset is not None:
        reset = torch.zeros(case.batch, case.steps, dtype=torch.bool, device=device)
        reset[:, list(case.reset)] = True
    if lengths is not None:
        padding = torch.arange(case.steps, device=device) >= lengths[:, None]
        planes = [plane.masked_fill(padding[..., None], torch.nan) for plane in planes]
    return planes, {"h0": h0, "lengths": lengths, "reset": reset}


def run_kernel(case: Case, planes: list[Tensor], options: dict[str, Tensor | None], grads: list[Tensor]) -> list[Tensor]:
    """out, h_last, the planes' gradients and, if there is an h0, its gradient."""
    planes = [plane.detach().requires_grad_() for plane in planes]
    h0 = options["h0"].detach().requires_grad_() if options["h0"] is not None else None
    arranged = [torch.cat(planes, dim=-1)] if case.layout == "packed" else planes
    if case.layout not in ("packed", "planes"):
        arranged = [strided(plane.detach(), case.layout).requires_grad_() for plane in planes]
    out, h_last = functional.scan(
        arranged,
        case.gates,
        h0,
        options["lengths"],
        options["reset"],
        case.reverse,
        case.activation,
        case.initial,
    )
    leaves = planes if case.layout in ("packed", "planes") else arranged
    inputs = [*leaves, *([h0] if h0 is not None else [])]
    return [out, h_last, *torch.autograd.grad([out, h_last], inputs, grads)]


def run_reference(
    case: Case, planes: list[Tensor], options: dict[str, Tensor | None], grads: list[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """The same from the reference, with planes and states in `dtype`, results as the kernel would store them."""
    planes = [plane.detach().to(dtype).requires_grad_() for plane in planes]
    initial = case.initial if case.initial is not None else (0.5 if case.activation == "g" else 0.0)
    shape = (case.batch, case.channels)
    h0 = torch.full(shape, initial, dtype=dtype, device=planes[0].device) if options["h0"] is None else options["h0"]
    h0 = h0.detach().to(dtype).requires_grad_()
    out, h_last = reference.scan(
        planes,
        h0,
        options["lengths"],
        options["reset"],
        activation=case.activation,
        initial=initial,
        reverse=case.reverse,
    )
    inputs = [*planes, *([h0] if options["h0"] is not None else [])]
    return [out, h_last, *torch.autograd.grad([out, h_last], inputs, [g.to(dtype) for g in grads], allow_unused=True)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    planes, options = make(case, backend.device)
    state_dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    shape = (case.batch, case.steps, case.channels)
    grads = [torch.randn(shape).to(backend.device, case.dtype), torch.randn(shape[::2]).to(backend.device, state_dtype)]
    with poisoned_outputs():
        actual = run_kernel(case, planes, options, grads)
    oracle = run_reference(case, planes, options, grads, torch.float64)
    baseline = run_reference(case, planes, options, grads, state_dtype)
    names = ["out", "h_last", *(f"grad of plane {j}" for j in range(case.gates + 1)), "grad of h0"]
    for name, a, o, b in zip(names, actual, oracle, baseline, strict=False):
        o = torch.zeros_like(a, dtype=torch.float64) if o is None else o
        b = torch.zeros_like(o) if b is None else b.to(a.dtype)
        assert_no_worse(name, a, o, b, TOLERANCE[a.dtype])


@pytest.mark.parametrize("gates", [1, 2])
def test_gradients_too_large_for_the_caches(gates: int) -> None:
    """Beyond 8 MB the CPU engine stores them another way; 67 channels leave some stores unaligned."""
    case = Case(batch=2, steps=9000, channels=67, gates=gates)
    planes, options = make(case, torch.device("cpu"))
    grads = [torch.randn(2, 9000, 67), torch.randn(2, 67)]
    whole = run_kernel(case, planes, options, grads)
    for b in range(2):  # one sequence at a time is small enough for the other way
        half = dataclasses.replace(case, batch=1)
        one = [plane[b : b + 1] for plane in planes]
        inputs = {**options, "h0": options["h0"][b : b + 1]}
        alone = run_kernel(half, one, inputs, [g[b : b + 1] for g in grads])
        assert all(torch.equal(a[b : b + 1], e) for a, e in zip(whole, alone, strict=True))


@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS.values(), ids=MULTIPROCESSORS.keys())
def test_orders_of_threads_agree_bit_for_bit(multiprocessors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=1, steps=300, channels=40, lengths=(290,), reset=(100,))
    planes, options = make(case, torch.device("cpu"))
    grads = [torch.randn(1, 300, 40), torch.randn(1, 40)]
    results = []
    for order in ORDERS:
        Backend(order, order=order, multiprocessors=multiprocessors).activate("mingru", CSRC, monkeypatch)
        results.append(run_kernel(case, planes, options, grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("gates", [1, 2])
def test_long_sequences_keep_fp32_accuracy(gates: int, backend: Backend) -> None:
    """T = 4097, few channels: chunks of time on every backend; gates that mostly keep (mu = -4) and mostly forget (+4)."""
    case = Case(batch=1, steps=4097, channels=2, gates=gates)
    for mu in (-4.0, 0.0, 4.0):
        planes, options = make(case, backend.device)
        planes[0] += mu
        grads = [torch.randn(1, 4097, 2, device=backend.device), torch.randn(1, 2, device=backend.device)]
        actual = run_kernel(case, planes, options, grads)
        oracle = run_reference(case, planes, options, grads, torch.float64)
        for name, a, o in zip(["out", "h_last", "gate", *["other"] * gates, "h0"], actual, oracle, strict=True):
            scale = float(o.detach().abs().max())
            error = float((a - o).detach().abs().max())
            assert error <= 2e-6 * scale + 1e-30, f"{name}, mu={mu}: error {error:.1e} of {scale:.1e}"


@pytest.mark.parametrize(
    "options", [{}, {"reverse": True, "lengths": (2900, 0)}, {"reset": (0, 255, 256, 1500, 2999)}], ids=str
)
@pytest.mark.parametrize("threads", [3, 16])
def test_more_threads_than_sequences_share_the_time(threads: int, options: dict, backend: Backend) -> None:
    """The CPU engine cuts time into chunks when channels and sequences are few; nothing may show of that."""
    before = torch.get_num_threads()
    case = Case(batch=2 if "lengths" in options else 1, steps=3000, channels=5, dtype=torch.float64, **options)
    planes, inputs = make(case, backend.device)
    shape = (case.batch, 3000, 5)
    grads = [torch.randn(s, dtype=torch.float64, device=backend.device) for s in (shape, shape[::2])]
    expected = run_reference(case, planes, inputs, grads, torch.float64)
    torch.set_num_threads(threads)
    try:
        actual = run_kernel(case, planes, inputs, grads)
    finally:
        torch.set_num_threads(before)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def test_every_kernel_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.name == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    planes = torch.randn(2, 5, 6)
    for value in (-1, 6):
        with pytest.raises(RuntimeError, match="lengths"):
            torch.ops.rnnkit_mingru.scan([planes], None, torch.tensor([5, value]), None, 1, 0, 0.5, False, False)


def test_outputs_lie_in_memory_as_the_planes_do(backend: Backend) -> None:
    """A time-major stack copies nothing between layers: outputs and gradients are time-major where the planes are."""
    planes = torch.randn(7, 3, 8, device=backend.device).transpose(0, 1).requires_grad_()
    out, _ = functional.scan([planes], 1)
    assert out.transpose(0, 1).is_contiguous()
    (grad,) = torch.autograd.grad(out.sum(), planes)
    assert grad.transpose(0, 1).is_contiguous()
