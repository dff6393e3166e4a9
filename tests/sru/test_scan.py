"""The recurrence against the fp64 reference, on every backend: values, gradients, all that a caller may pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rnnkit_common.testing import Backend, check_layer, scans, some_sanitized
from rnnkit_common.testing.backends import SHARING_DEVICES, EmulatedDevice, kernels_of
from rnnkit_common.testing.cases import strided
from sru import functional, reference
from torch import Tensor

from .conftest import CSRC

pytestmark = pytest.mark.kernels


@dataclasses.dataclass(frozen=True)
class Case(scans.ScanCase):
    """A problem of SRU's op. Its planes are the columns of U and the others; here they are made into the op's inputs."""

    family = "sru"
    layout: str = "planes"
    activation: str = "identity"
    skip: str = "input"
    peephole: str = "parameter"
    pads: float = 0.0  # probability of a step to be padding
    mask: bool = False
    scale: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        u = ("U0", "U1", "U2", "U3") if self.skip == "column" else ("U0", "U1", "U2")
        return (*u, *(["x"] if self.skip == "input" else []), *(["v_f", "v_r"] if self.peephole == "plane" else []))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return ("b_f", "b_r", "v_f", "v_r") if self.peephole == "parameter" else ("b_f", "b_r")

    def prepare(self, planes: list[Tensor]) -> list[Tensor]:
        # only gates are saturated: large c and v would make the recurrence chaotic, and no two roundings agree
        return [
            plane if name in ("U1", "U2") else plane.clamp(-1, 1) for name, plane in zip(self.names, planes, strict=True)
        ]

    def extra(self, device: torch.device) -> tuple[Tensor | None, ...]:
        pad = (torch.rand(self.batch, self.steps) < self.pads).to(device) if self.pads else None
        mask = torch.bernoulli(torch.full((self.batch, self.channels), 0.7)).to(device, self.state_dtype) / 0.7
        scale = None if self.scale is None else torch.tensor([self.scale], dtype=self.state_dtype, device=device)
        return pad, mask if self.mask else None, scale

    def inputs(self, planes: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
        k = 4 if self.skip == "column" else 3
        sequences = [torch.stack(planes[:k], dim=-1).flatten(2), *planes[k:]]
        if self.peephole == "plane":
            *others, v_f, v_r = sequences
            sequences = [v_f, *others, v_r]
        if self.layout != "planes":
            sequences = [strided(t, self.layout) for t in sequences]
        return [*sequences, torch.stack(parameters)]

    @property
    def options(self) -> tuple:
        return (self.activation, self.skip, self.peephole)


KINDS = [(peephole, skip) for peephole in reference.PEEPHOLES for skip in reference.SKIPS]
CASES = [
    *(case for case in scans.shapes_and_layouts(Case()) if case.layout != "packed"),
    *(Case(peephole=p, skip=s, reset=(0, 7, 16), lengths=(40, 17)) for p, s in KINDS),
    *(Case(peephole=p, skip=s, dtype=d, steps=70) for p, s in KINDS for d in (torch.float32, torch.bfloat16)),
    *(Case(peephole=p, skip=s, activation="tanh", mask=True, pads=0.3) for p, s in KINDS),
    *(Case(peephole=p, skip=s, direction="both", channels=70, lengths=(40, 17)) for p, s in KINDS),
    *(Case(peephole=p, skip="column", layout="time-major") for p in reference.PEEPHOLES),
    *(Case(activation=a, dtype=d, mask=True, scale=1.7) for a in reference.ACTIVATIONS for d in scans.TOLERANCE),
    *(Case(peephole=p, saturated=True, activation="tanh") for p in reference.PEEPHOLES),
    Case(channels=2, direction="both", mask=True),
    Case(channels=3000, steps=3, direction="both", layout="time-major"),
    Case(pads=1.0),
    Case(steps=129, pads=0.5, lengths=(129, 100), direction="both", channels=8),
    # marks at steps, and in the padding, where they mean nothing
    *(Case(steps=129, pads=0.5, reset=(0, 3, 50, 51, 99, 128), direction=d, peephole=p, lengths=(129, 100), channels=8)
      for d in ("forward", "backward", "both") for p in ("none", "parameter")),
]  # fmt: skip


@pytest.mark.parametrize("case", some_sanitized(CASES), ids=str)
def test_matches_the_reference(case: Case, backend: Backend) -> None:
    scans.check_against_reference(case, backend.device)


@pytest.mark.parametrize("device", SHARING_DEVICES.values(), ids=SHARING_DEVICES.keys())
@pytest.mark.parametrize("peephole", reference.PEEPHOLES)
def test_emulated_orders_of_threads_agree_bit_for_bit(
    peephole: str, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(batch=1, steps=1100, channels=40, lengths=(1090,), peephole=peephole, direction="both")
    scans.check_orders_agree(case, "sru", CSRC, device, monkeypatch)


@pytest.mark.parametrize(
    ("peephole", "options"),
    [
        ("none", {}),
        ("none", {"pads": 0.2, "mask": True}),
        ("parameter", {"batch": 2, "lengths": (700, 0)}),
        ("plane", {"pads": 0.2, "mask": True}),
    ],
    ids=str,
)
def test_more_threads_than_sequences_share_the_time(peephole: str, options: dict, few_backends: Backend) -> None:
    """Backward is linear for every peephole, and is cut in time; so is forward for the first version."""
    case = Case(**{"batch": 1, "steps": 800, "channels": 6, "dtype": torch.float64, "direction": "both", **options})
    scans.check_shared_time(dataclasses.replace(case, peephole=peephole), 16, few_backends.device)


def test_gradients_too_large_for_the_caches() -> None:
    scans.check_large_gradients(Case(steps=4000, channels=67, peephole="plane"))  # 67 channels leave some stores unaligned


@pytest.mark.parametrize("batch", [7, 50])
def test_many_sequences_side_by_side(batch: int, backend: Backend) -> None:
    """Time-major, the CPU engine walks sequences of different lengths together."""
    lengths = tuple((17 * b) % 41 for b in range(batch))
    for direction in ("forward", "both"):
        case = Case(batch=batch, channels=20, lengths=lengths, direction=direction, layout="time-major")
        scans.check_against_reference(case, backend.device)


def test_every_kernel_finds_lengths_out_of_range(backend: Backend) -> None:
    if backend.name == "cuda":
        pytest.skip("the device's context would not survive it: test_cuda.py has it in a process of its own")
    for peephole, rows in (("none", 2), ("parameter", 4)):
        for value in (-1, 6):
            inputs, lengths = [torch.randn(2, 5, 9), torch.randn(rows, 3)], torch.tensor([5, value])
            with pytest.raises(RuntimeError, match="lengths"):
                torch.ops.rnnkit_sru.scan(inputs, lengths=lengths, skip="none", peephole=peephole)


@pytest.mark.parametrize("width", [pytest.param(4, id="small", marks=pytest.mark.sanitized), pytest.param(300, id="large")])
def test_a_layer_in_one_op_is_its_product_and_its_recurrence(host_backends: Backend, width: int) -> None:
    weight, bias, lengths = torch.randn(width, 3 * width) / width**0.5, torch.randn(2 * width), torch.tensor([7, 4, 0])
    weight_c = torch.randn(2 * width)
    others = {"lengths": lengths, "activation": "tanh", "bidirectional": True}

    def apart(x: Tensor, weight: Tensor, bias: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.recurrence(x @ weight, bias, weight_c, x, c0, **others, batch_first=True)

    def fused(x: Tensor, weight: Tensor, bias: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
        return functional.layer(x, weight, bias, weight_c, c0, **others, batch_first=True)

    def fused_by_time(x: Tensor, weight: Tensor, bias: Tensor | None, c0: Tensor | None) -> tuple[Tensor, Tensor]:
        out, c = functional.layer(x.transpose(0, 1), weight, bias, weight_c, c0, **others)
        return out.transpose(0, 1), c

    for layer in (fused, fused_by_time):
        check_layer(layer, apart, weight, bias, torch.randn(3, width), width)


def test_no_channels_at_all() -> None:
    none, bias = torch.zeros(2, 5, 0, requires_grad=True), torch.zeros(0, requires_grad=True)
    for weight_c in (None, torch.zeros(0)):
        h, c = functional.layer(none, torch.zeros(0, 0), bias, weight_c, batch_first=True)
        (h.sum() + c.sum()).backward()
        assert h.shape == (2, 5, 0)
        assert c.shape == (2, 0)
    out, _, _ = torch.ops.rnnkit_sru.scan([none, none, none, torch.zeros(2, 0)], skip="none", peephole="plane")
    assert out.shape == (2, 5, 0)


def test_a_training_step_of_a_layer_is_a_kernel_each_way_beyond_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((2, 5, 8), (8, 3 * 8), (2 * 8,), (2 * 8,))]

    def step() -> None:
        out = torch.ops.rnnkit_sru.layer(*leaves, save=True)[0]
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    # the product that adds to x's gradient is no op of torch's
    assert kernels_of("sru", CSRC, step, monkeypatch) == (2, {"linear": 1, "matmul": 1, "sum": 1})
