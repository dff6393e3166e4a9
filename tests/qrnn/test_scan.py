"""ForgetMult and the fused pooling against the fp64 reference, on every backend: values, gradients, all that a caller may pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from qrnn import functional, reference
from qrnn._ops import POOLINGS
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
    pooling: str = "fo"
    h0: bool = True
    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    layout: str = "packed"
    saturated: bool = False
    zoneout: float | None = None  # None: no seed
    scale: float = 1.0

    def __str__(self) -> str:
        default = Case()
        changed = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        parts = [f"{k}={v}" for k, v in changed.items() if v != getattr(default, k)]
        return ",".join(parts).replace("torch.", "").replace(" ", "") or "default"


CASES = [
    *(Case(pooling=pooling) for pooling in POOLINGS),
    *(Case(steps=steps, channels=3) for steps in (0, 1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129)),
    *(Case(steps=19, channels=channels) for channels in (1, 3, 31, 32, 63, 64, 65, 100)),
    Case(batch=0),
    Case(steps=1, h0=False),
    *(Case(pooling=pooling, dtype=dtype, steps=70) for pooling in POOLINGS for dtype in TOLERANCE),
    *(Case(pooling=pooling, saturated=True, dtype=dtype) for pooling in ("f", "fo", "ifo") for dtype in (torch.float32, torch.float64)),
    *(Case(layout=layout, dtype=dtype) for layout in ("planes", "time-major", "offset", "channels") for dtype in (torch.float32, torch.bfloat16)),
    *(Case(layout="time-major", pooling=pooling) for pooling in ("mult", "ifo")),
    *(Case(lengths=(40, 17), pooling=pooling) for pooling in POOLINGS),
    Case(lengths=(0, 1), reverse=True, h0=False),
    *(Case(lengths=(33, 16), reverse=True, layout="time-major", pooling=pooling) for pooling in ("mult", "fo")),
    *(Case(pooling=pooling, zoneout=0.3, scale=1 / 0.7) for pooling in ("f", "fo", "ifo")),
    *(Case(zoneout=0.5, dtype=dtype) for dtype in TOLERANCE),
    Case(zoneout=0.5, reverse=True, lengths=(33, 16), steps=33, channels=70),
    Case(zoneout=1.0),
    Case(zoneout=0.0),
    *(Case(scale=0.7, pooling=pooling) for pooling in ("f", "ifo")),
]  # fmt: skip


def make(case: Case, device: torch.device) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """The planes (B, T, D), each its own tensor, and h0, lengths and seed; padding is NaN."""
    torch.manual_seed(0)
    shape = (case.batch, case.steps, case.channels)
    draw = saturated if case.saturated else torch.randn
    planes = [draw(*shape, dtype=torch.float64) for _ in POOLINGS[case.pooling]]
    if case.pooling == "mult":
        planes[0] = planes[0].sigmoid()
    planes = [plane.to(device, case.dtype) for plane in planes]
    state_dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    h0 = torch.randn(case.batch, case.channels, dtype=state_dtype).to(device) if case.h0 else None
    lengths = torch.tensor(case.lengths, device=device) if case.lengths else None
    seed = torch.tensor([-6912345678901234567], device=device) if case.zoneout is not None else None
    if lengths is not None:
        padding = torch.arange(case.steps, device=device) >= lengths[:, None]
        planes = [plane.masked_fill(padding[..., None], torch.nan) for plane in planes]
    return planes, {"h0": h0, "lengths": lengths, "seed": seed}


def run_kernel(case: Case, planes: list[Tensor], options: dict[str, Tensor | None], grads: list[Tensor]) -> list[Tensor]:
    """out, h_last, the planes' gradients and, if there is an h0, its gradient."""
    planes = [plane.detach().requires_grad_() for plane in planes]
    h0 = options["h0"].detach().requires_grad_() if options["h0"] is not None else None
    arranged = [torch.cat(planes, dim=-1)] if case.layout == "packed" else planes
    if case.layout not in ("packed", "planes"):
        arranged = [strided(plane.detach(), case.layout).requires_grad_() for plane in planes]
    index = list(POOLINGS).index(case.pooling)
    out, h_last, _ = torch.ops.rnnkit_qrnn.scan(
        arranged,
        h0,
        options["lengths"],
        options["seed"],
        index,
        case.zoneout or 0.0,
        case.scale,
        case.reverse,
        True,
    )
    leaves = planes if case.layout in ("packed", "planes") else arranged
    inputs = [*leaves, *([h0] if h0 is not None else [])]
    return [out, h_last, *torch.autograd.grad([out, h_last], inputs, grads)]


def run_reference(
    case: Case, planes: list[Tensor], options: dict[str, Tensor | None], grads: list[Tensor], dtype: torch.dtype
) -> list[Tensor]:
    """The same from the reference, with planes and states in `dtype`."""
    planes = [plane.detach().to(dtype).requires_grad_() for plane in planes]
    h0 = torch.zeros(case.batch, case.channels, device=planes[0].device) if options["h0"] is None else options["h0"]
    h0 = h0.detach().to(dtype).requires_grad_()
    out, h_last = reference.scan(
        planes,
        h0,
        options["lengths"],
        options["seed"],
        pooling=case.pooling,
        zoneout=case.zoneout or 0.0,
        scale=case.scale,
        reverse=case.reverse,
    )
    inputs = [*planes, *([h0] if options["h0"] is not None else [])]
    return [out, h_last, *torch.autograd.grad([out, h_last], inputs, [g.to(dtype) for g in grads], allow_unused=True)]


def seeds(case: Case, device: torch.device) -> list[Tensor]:
    """Gradients of out and h_last."""
    shape = (case.batch, case.steps, case.channels)
    state_dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    return [torch.randn(shape).to(device, case.dtype), torch.randn(shape[::2]).to(device, state_dtype)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    planes, options = make(case, backend.device)
    grads = seeds(case, backend.device)
    with poisoned_outputs():
        actual = run_kernel(case, planes, options, grads)
    oracle = run_reference(case, planes, options, grads, torch.float64)
    state_dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
    baseline = run_reference(case, planes, options, grads, state_dtype)
    names = ["out", "h_last", *(f"grad of {name}" for name in POOLINGS[case.pooling]), "grad of h0"]
    for name, a, o, b in zip(names, actual, oracle, baseline, strict=False):
        o = torch.zeros_like(a, dtype=torch.float64) if o is None else o
        b = torch.zeros_like(o) if b is None else b.to(a.dtype)
        assert_no_worse(name, a, o, b, TOLERANCE[a.dtype])


@pytest.mark.parametrize("multiprocessors", MULTIPROCESSORS.values(), ids=MULTIPROCESSORS.keys())
def test_orders_of_threads_agree_bit_for_bit(multiprocessors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=1, steps=300, channels=40, lengths=(290,), zoneout=0.2)
    planes, options = make(case, torch.device("cpu"))
    grads = seeds(case, torch.device("cpu"))
    results = []
    for order in ORDERS:
        Backend(order, order=order, multiprocessors=multiprocessors).activate("qrnn", CSRC, monkeypatch)
        results.append(run_kernel(case, planes, options, grads))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("options", [{}, {"reverse": True, "lengths": (2900, 0)}, {"zoneout": 0.3}], ids=str)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_more_threads_than_sequences_share_the_time(pooling: str, options: dict, backend: Backend) -> None:
    """The CPU engine cuts time into chunks when channels and sequences are few; nothing may show of that."""
    if pooling == "mult":
        options = {key: value for key, value in options.items() if key != "zoneout"}
    before = torch.get_num_threads()
    case = Case(
        batch=2 if "lengths" in options else 1, steps=3000, channels=5, dtype=torch.float64, pooling=pooling, **options
    )
    planes, inputs = make(case, backend.device)
    grads = [g.double() for g in seeds(case, backend.device)]
    expected = run_reference(case, planes, inputs, grads, torch.float64)
    torch.set_num_threads(16)
    try:
        actual = run_kernel(case, planes, inputs, grads)
    finally:
        torch.set_num_threads(before)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def test_gradients_too_large_for_the_caches() -> None:
    """Beyond 8 MB the CPU engine stores them another way; 67 channels leave some stores unaligned."""
    case = Case(batch=2, steps=9000, channels=67)
    planes, options = make(case, torch.device("cpu"))
    grads = seeds(case, torch.device("cpu"))
    whole = run_kernel(case, planes, options, grads)
    for b in range(2):  # one sequence at a time is small enough for the other way
        half = dataclasses.replace(case, batch=1)
        one = [plane[b : b + 1] for plane in planes]
        alone = run_kernel(half, one, {**options, "h0": options["h0"][b : b + 1]}, [g[b : b + 1] for g in grads])
        assert all(torch.equal(a[b : b + 1], e) for a, e in zip(whole, alone, strict=True))


def test_every_kernel_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.name == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    for value in (-1, 6):
        with pytest.raises(RuntimeError, match="lengths"):
            torch.ops.rnnkit_qrnn.scan(
                [torch.randn(2, 5, 6)], None, torch.tensor([5, value]), None, 1, 0.0, 1.0, False, False
            )


def test_forget_mult_of_any_gate_and_shape(backend: Backend) -> None:
    """Gates beyond [0, 1], both layouts, both directions, and features in several dimensions."""
    torch.manual_seed(0)
    f, x = (torch.randn(21, 2, 3, 4, dtype=torch.float64, device=backend.device) for _ in range(2))
    h0 = torch.randn(2, 3, 4, dtype=torch.float64, device=backend.device)
    for reverse in (False, True):
        h, expected = h0, []
        for t in reversed(range(21)) if reverse else range(21):
            h = f[t] * x[t] + (1 - f[t]) * h
            expected.append(h)
        expected = torch.stack(expected[::-1] if reverse else expected)
        out, last = functional.forget_mult(f, x, h0, reverse=reverse)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(last, h)
        swapped, _ = functional.forget_mult(f.transpose(0, 1), x.transpose(0, 1), h0, batch_first=True, reverse=reverse)
        torch.testing.assert_close(swapped.transpose(0, 1), expected)


def test_outputs_lie_in_memory_as_the_gates_do(backend: Backend) -> None:
    """Nothing is copied between layers: outputs and gradients are time-major where the gates are."""
    gates = torch.randn(7, 3, 12, device=backend.device, requires_grad=True)
    out, _ = functional.pool(gates)
    assert out.is_contiguous()
    (grad,) = torch.autograd.grad(out.sum(), gates)
    assert grad.is_contiguous()
