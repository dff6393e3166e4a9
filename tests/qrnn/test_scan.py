"""ForgetMult and the fused pooling against the fp64 reference, on every backend: values, gradients, all that a caller may pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from qrnn import functional
from qrnn._ops import POOLINGS
from rnnkit_common.testing import Backend, check_layer, check_what_a_layer_keeps, scans, some_sanitized
from rnnkit_common.testing.backends import SHARING_DEVICES, EmulatedDevice, kernels_of
from torch import Tensor

from .conftest import CSRC

pytestmark = pytest.mark.kernels


@dataclasses.dataclass(frozen=True)
class Case(scans.ScanCase):
    """A problem of QRNN's op."""

    family = "qrnn"
    pooling: str = "fo"
    zoneout: float | None = None  # None: no seed
    scale: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        return POOLINGS[self.pooling]

    def prepare(self, planes: list[Tensor]) -> list[Tensor]:
        values = {"linear": planes[0].tanh(), "mult": planes[0].sigmoid()}
        return [values[self.pooling], planes[1]] if self.pooling in values else planes

    def extra(self, device: torch.device) -> tuple[Tensor | None]:
        return (None if self.zoneout is None else torch.tensor([-6912345678901234567], device=device),)

    @property
    def options(self) -> tuple:
        return (self.pooling, self.zoneout or 0.0, self.scale)


CASES = [
    *scans.shapes_and_layouts(Case()),
    *(Case(pooling=pooling, dtype=dtype, steps=70) for pooling in ("linear", "mult", "f", "ifo") for dtype in scans.TOLERANCE),
    *(Case(pooling=pooling, saturated=True, dtype=dtype) for pooling in ("f", "ifo") for dtype in (torch.float32, torch.float64)),
    *(Case(layout="time-major", pooling=pooling) for pooling in ("mult", "ifo")),
    *(Case(lengths=(40, 17), pooling=pooling) for pooling in ("linear", "mult", "f", "ifo")),
    Case(pooling="linear", steps=300, channels=70, direction="both", lengths=(300, 17), reset=(0, 17, 100, 299)),
    Case(lengths=(33, 16), direction="backward", layout="time-major", pooling="mult"),
    *(Case(pooling=pooling, zoneout=0.3, scale=1 / 0.7) for pooling in ("f", "fo", "ifo")),
    *(Case(zoneout=0.5, dtype=dtype) for dtype in scans.TOLERANCE),
    *(Case(zoneout=0.5, direction=d, lengths=(33, 16), steps=33, channels=70) for d in ("backward", "both")),
    Case(zoneout=1.0),
    Case(zoneout=0.0),
    *(Case(scale=0.7, pooling=pooling) for pooling in ("f", "ifo")),
]  # fmt: skip


@pytest.mark.parametrize("case", some_sanitized(CASES), ids=str)
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    scans.check_against_reference(case, backend.device)


@pytest.mark.parametrize("device", SHARING_DEVICES.values(), ids=SHARING_DEVICES.keys())
def test_emulated_orders_of_threads_agree_bit_for_bit(device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=1, steps=1900, channels=40, lengths=(1890,), zoneout=0.2)
    scans.check_orders_agree(case, "qrnn", CSRC, device, monkeypatch)


@pytest.mark.parametrize(
    ("pooling", "options"),
    [
        ("mult", {}),
        ("fo", {}),
        ("f", {"batch": 2, "direction": "backward", "lengths": (2900, 0)}),
        ("ifo", {"zoneout": 0.3}),
    ],
    ids=str,
)
def test_more_threads_than_sequences_share_the_time(pooling: str, options: dict, few_backends: Backend) -> None:
    case = Case(**{"batch": 1, "steps": 3000, "channels": 5, "dtype": torch.float64, "pooling": pooling, **options})
    scans.check_shared_time(case, 16, few_backends.device)


def test_gradients_too_large_for_the_caches() -> None:
    scans.check_large_gradients(Case(steps=9000, channels=67))  # 67 channels leave some stores unaligned


def test_every_kernel_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.name == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    for value in (-1, 6):
        with pytest.raises(RuntimeError, match="lengths"):
            torch.ops.rnnkit_qrnn.scan([torch.randn(2, 5, 6)], lengths=torch.tensor([5, value]), pooling="f")


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


def test_what_is_infinite_ends_with_its_sequence(backend: Backend) -> None:
    """Neither infinity nor NaN passes a reset, be it in the same block of steps or in another thread's."""
    a, b = torch.full((2, 300, 3), 0.5, device=backend.device), torch.ones(2, 300, 3, device=backend.device)
    reset = torch.zeros(2, 300, dtype=torch.bool, device=backend.device)
    reset[:, [7, 150, 200]] = True
    expected, last = functional.linear_scan(a, b, reset=reset, batch_first=True)
    b[0, 4], b[0, 199], b[1, 160] = torch.inf, torch.nan, -torch.inf
    out, out_last = functional.linear_scan(
        a, b, torch.full((3,), torch.inf, device=backend.device), reset=reset, batch_first=True
    )
    for sequence, begin, end in ((0, 7, 199), (0, 200, 300), (1, 7, 160), (1, 200, 300)):
        torch.testing.assert_close(out[sequence, begin:end], expected[sequence, begin:end], rtol=0, atol=0)
    assert torch.equal(out_last, last)
    assert not out[0, 4:7].isfinite().any()
    nothing, _ = functional.linear_scan(4 * torch.ones_like(a), 0 * a, batch_first=True)  # 4^300 is not finite
    assert (nothing == 0).all()


def test_linear_scan_of_any_factors_and_shape(backend: Backend) -> None:
    """Of either sign and beyond 1, in both directions; sequences that begin in between; features in several dimensions."""
    torch.manual_seed(0)
    a, b = (torch.randn(21, 2, 3, 4, dtype=torch.float64, device=backend.device) for _ in range(2))
    h0 = torch.randn(2, 3, 4, dtype=torch.float64, device=backend.device)
    reset = torch.zeros(21, 2, dtype=torch.bool, device=backend.device)
    reset[[5, 6, 17], 1] = True
    for reverse in (False, True):
        h, expected = h0, []
        for t in reversed(range(21)) if reverse else range(21):
            cut = reset[t] if not reverse else reset[t + 1] if t < 20 else torch.zeros_like(reset[0])
            h = a[t] * h.masked_fill(cut[:, None, None], 0.0) + b[t]
            expected.append(h)
        expected = torch.stack(expected[::-1] if reverse else expected)
        out, last = functional.linear_scan(a, b, h0, reset=reset, reverse=reverse)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(last, h)
        swapped, _ = functional.linear_scan(
            a.transpose(0, 1), b.transpose(0, 1), h0, reset=reset.T, batch_first=True, reverse=reverse
        )
        torch.testing.assert_close(swapped.transpose(0, 1), expected)


def test_outputs_lie_in_memory_as_the_gates_do(backend: Backend) -> None:
    """Nothing is copied between layers: outputs and gradients are time-major where the gates are."""
    gates = torch.randn(7, 3, 12, device=backend.device, requires_grad=True)
    out, _ = functional.pool(gates)
    assert out.is_contiguous()
    (grad,) = torch.autograd.grad(out.sum(), gates)
    assert grad.is_contiguous()


@pytest.mark.parametrize("batch", [7, 50])
def test_many_sequences_side_by_side(batch: int, backend: Backend) -> None:
    """Time-major, the CPU engine walks sequences of different lengths together."""
    lengths = tuple((17 * b) % 41 for b in range(batch))
    for direction in ("forward", "backward"):
        case = Case(batch=batch, channels=20, lengths=lengths, direction=direction, layout="time-major")
        scans.check_against_reference(case, backend.device)


@pytest.mark.parametrize(
    "sizes", [pytest.param((5, 4), id="small", marks=pytest.mark.sanitized), pytest.param((600, 150), id="large")]
)
def test_a_layer_in_one_op_is_its_product_and_its_scan(host_backends: Backend, sizes: tuple[int, int]) -> None:
    width, channels = sizes
    weight, bias = torch.randn(3 * channels, width) / width**0.5, torch.randn(3 * channels)
    lengths = torch.tensor([7, 4, 0])

    def apart(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        gates = torch.nn.functional.linear(x, weight, bias)
        return functional.pool(gates, h0, "fo", lengths, True, True, 0.3, "salesforce", False)

    def fused(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.layer_unchecked(x, weight, bias, h0, "fo", lengths, None, True, 0.3, "salesforce", False, True)

    def fused_by_time(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        given = (x.transpose(0, 1), weight, bias, h0, "fo", lengths, None, True, 0.3, "salesforce", False)
        out, h_last = functional.layer_unchecked(*given, batch_first=False)
        return out.transpose(0, 1), h_last

    for layer in (fused, fused_by_time):
        check_layer(layer, apart, weight, bias, torch.randn(3, channels), width)


def test_a_layer_keeps_what_a_linear_keeps(host_backends: Backend) -> None:
    def layer(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.layer_unchecked(x, weight, bias, h0, "fo", None, None, False, 0.0, "salesforce", False, True)

    check_what_a_layer_keeps(layer, torch.randn(12, 5), torch.randn(12), 5)


def test_a_training_step_of_a_layer_is_a_kernel_each_way_beyond_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 5, 3), (3 * 8, 3), (3 * 8,))]

    def step() -> None:
        out = torch.ops.rnnkit_qrnn.layer(*leaves, save=True)[0]
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    assert kernels_of("qrnn", CSRC, step, monkeypatch) == (2, {"linear": 2, "matmul": 1, "sum": 1})
