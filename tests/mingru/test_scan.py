"""The scan ops against the fp64 reference, on every backend: values, gradients, and everything a caller may pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from mingru import functional
from rnnkit_common.testing import Backend, check_layer, check_what_a_layer_keeps, scans, some_sanitized
from rnnkit_common.testing.backends import SHARING_DEVICES, EmulatedDevice, kernels_of
from torch import Tensor

from .conftest import CSRC

pytestmark = pytest.mark.kernels


@dataclasses.dataclass(frozen=True)
class Case(scans.ScanCase):
    """A problem of minGRU's (one gate) or minLSTM's (two) op."""

    family = "mingru"
    gates: int = 1
    activation: str = "g"
    initial: float | None = None
    keeps: bool = False  # gates that hardly forget: what went wrong long ago still shows

    @property
    def names(self) -> tuple[str, ...]:
        return ("gate", "hidden") if self.gates == 1 else ("forget gate", "input gate", "hidden")

    @property
    def initial_state(self) -> float:
        return self.initial if self.initial is not None else (0.5 if self.activation == "g" else 0.0)

    def prepare(self, planes: list[Tensor]) -> list[Tensor]:
        return [planes[0] - 8, *planes[1:]] if self.keeps else planes

    @property
    def options(self) -> tuple:
        return (functional.cell_name(self.gates), self.activation, self.initial_state)


CASES = [
    *scans.shapes_and_layouts(Case()),
    *(Case(gates=2, activation=activation) for activation in ("g", "identity", "tanh")),
    *(Case(activation=activation, h0=False, reset=(5,)) for activation in ("identity", "tanh")),
    *(Case(gates=2, dtype=dtype, steps=70) for dtype in scans.TOLERANCE),
    *(Case(gates=2, saturated=True, dtype=dtype) for dtype in (torch.float32, torch.float64)),
    Case(reset=(0, 7, 39), direction="backward", lengths=(40, 30), initial=-3.0, gates=2),
    Case(initial=0.0, h0=False),
]


@pytest.mark.parametrize("case", some_sanitized(CASES), ids=str)
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    scans.check_against_reference(case, backend.device)


@pytest.mark.parametrize("gates", [1, 2])
def test_gradients_too_large_for_the_caches(gates: int) -> None:
    # 67 channels leave some stores unaligned
    scans.check_large_gradients(Case(steps=9000, channels=67, gates=gates))


@pytest.mark.parametrize("device", SHARING_DEVICES.values(), ids=SHARING_DEVICES.keys())
def test_emulated_orders_of_threads_agree_bit_for_bit(device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(batch=1, steps=1900, channels=40, lengths=(1890,), reset=(100,))
    scans.check_orders_agree(case, "mingru", CSRC, device, monkeypatch)


@pytest.mark.parametrize("gates", [1, 2])
def test_long_sequences_keep_fp32_accuracy(gates: int, few_backends: Backend) -> None:
    """T = 4097, few channels: chunks of time on every backend; gates that mostly keep (mu = -4) and mostly forget (+4)."""
    case = Case(batch=1, steps=4097, channels=2, gates=gates)
    for mu in (-4.0, 0.0, 4.0):
        problem = scans.Problem.of(case, few_backends.device)
        problem.planes[0] += mu
        actual = scans.run_op(case, problem)
        oracle = scans.run_reference(case, problem, torch.float64)
        for name, a, o in zip(["out", "h_last", *case.names, "h0"], actual, oracle, strict=True):
            scale = float(o.detach().abs().max())
            error = float((a - o).detach().abs().max())
            assert error <= 2e-6 * scale + 1e-30, f"{name}, mu={mu}: error {error:.1e} of {scale:.1e}"


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 2, "direction": "backward", "lengths": (2900, 0)}, {"reset": (0, 255, 256, 1500, 2999), "keeps": True}],
    ids=str,
)
@pytest.mark.parametrize("threads", [3, 16])
def test_more_threads_than_sequences_share_the_time(threads: int, options: dict, few_backends: Backend) -> None:
    case = Case(**{"batch": 1, "steps": 3000, "channels": 5, "dtype": torch.float64, **options})
    scans.check_shared_time(case, threads, few_backends.device)


def test_every_kernel_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.name == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    planes = torch.randn(2, 5, 6)
    for value in (-1, 6):
        with pytest.raises(RuntimeError, match="lengths"):
            torch.ops.rnnkit_mingru.scan([planes], lengths=torch.tensor([5, value]))


def test_outputs_lie_in_memory_as_the_planes_do(backend: Backend) -> None:
    """A time-major stack copies nothing between layers: outputs and gradients are time-major where the planes are."""
    planes = torch.randn(7, 3, 8, device=backend.device).transpose(0, 1).requires_grad_()
    out, _ = functional.scan([planes], 1)
    assert out.transpose(0, 1).is_contiguous()
    (grad,) = torch.autograd.grad(out.sum(), planes)
    assert grad.transpose(0, 1).is_contiguous()


@pytest.mark.parametrize(("gates", "with_bias", "reverse", "batch_first"), [(1, True, False, True), (2, False, True, False)])
@pytest.mark.parametrize(
    "sizes", [pytest.param((5, 4), id="small", marks=pytest.mark.sanitized), pytest.param((600, 300), id="large")]
)
def test_a_layer_in_one_op_is_its_product_and_its_scan(
    host_backends: Backend, sizes: tuple[int, int], gates: int, with_bias: bool, reverse: bool, batch_first: bool
) -> None:
    width, channels = sizes
    planes = (gates + 1) * channels
    weight, bias = torch.randn(planes, width) / width**0.5, torch.randn(planes) if with_bias else None
    options = (torch.tensor([7, 4, 0]), torch.rand(3, 7) < 0.2, reverse, "tanh")

    def turn(t: Tensor) -> Tensor:
        return t if batch_first else t.transpose(0, 1)

    def apart(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.scan([torch.nn.functional.linear(x, weight, bias)], gates, h0, *options)

    def fused(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        out, h_last = functional.layer_unchecked(turn(x), weight, bias, gates, h0, *options, batch_first)
        return turn(out), h_last

    check_layer(fused, apart, weight, bias, torch.randn(3, channels), width)


def test_a_layer_keeps_what_a_linear_keeps(host_backends: Backend) -> None:
    def layer(x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.layer_unchecked(x, weight, bias, 1, h0, None, None, False, "g", True)

    check_what_a_layer_keeps(layer, torch.randn(8, 5), torch.randn(8), 5)


def test_ops_with_their_defaults_are_differentiated() -> None:
    """`save` is for those who need no gradient: where one is recorded, what backward needs is kept."""
    planes, weight = torch.randn(2, 5, 8, requires_grad=True), torch.randn(8, 3)
    torch.ops.rnnkit_mingru.scan([planes])[0].sum().backward()
    expected = torch.autograd.grad(functional.scan([planes], 1)[0].sum(), planes)[0]
    torch.testing.assert_close(planes.grad, expected)
    x = torch.randn(2, 5, 3, requires_grad=True)
    torch.ops.rnnkit_mingru.layer(x, weight)[0].sum().backward()
    (expected,) = torch.autograd.grad(functional.scan([x @ weight.T], 1)[0].sum(), x)
    torch.testing.assert_close(x.grad, expected)


def test_a_training_step_of_a_layer_is_a_kernel_each_way_beyond_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 5, 3), (2 * 8, 3), (2 * 8,))]

    def step() -> None:
        out = torch.ops.rnnkit_mingru.layer(*leaves, save=True)[0]
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    assert kernels_of("mingru", CSRC, step, monkeypatch) == (2, {"linear": 2, "matmul": 1, "sum": 1})


def test_blocks_all_over_a_gpu_share_a_long_sequence_of_few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through global memory, with counters that start at 0; in a short one, the blocks of a cluster, with no more than the kernel."""
    for steps, fills in ((2600, {"full": 1}), (1000, {})):
        planes = torch.randn(1, steps, 2 * 3)
        assert kernels_of("mingru", CSRC, lambda x=planes: torch.ops.rnnkit_mingru.scan([x]), monkeypatch) == (1, fills)
