"""What every scan op has to pass: a family describes its problems as a `ScanCase`, and calls the checks."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import Tensor

from .accuracy import assert_no_worse
from .backends import ORDERS, EmulatedDevice, emulate
from .cases import CHANNELS, STEPS, poisoned_outputs, saturated, strided, torch_threads

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
LAYOUTS = ("packed", "planes", "time-major", "offset", "channels")


@dataclasses.dataclass(frozen=True)
class ScanCase:
    """One problem. The default is a middling one; a case changes what it is about. A family says its name, and
    adds its options."""

    batch: int = 2
    steps: int = 40
    channels: int = 33
    dtype: torch.dtype = torch.float32
    h0: bool = True
    lengths: tuple[int, ...] | None = None
    reset: tuple[int, ...] | None = None  # steps at which every sequence starts afresh
    direction: str = "forward"
    layout: str = "packed"
    saturated: bool = False

    family: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the planes."""
        raise NotImplementedError

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Of the inputs (D,) that belong to a channel all the time."""
        return ()

    @property
    def options(self) -> tuple[Any, ...]:
        """What the op takes between its tensors and the direction."""
        return ()

    def extra(self, device: torch.device) -> tuple[Tensor | None, ...]:
        """The op's further tensors, after `reset`."""
        return ()

    def prepare(self, planes: list[Tensor]) -> list[Tensor]:
        """Changes the standard normal planes where a plane must be something else."""
        return planes

    def inputs(self, planes: list[Tensor], parameters: list[Tensor]) -> list[Tensor]:
        """The op's first argument, of planes that lie as the layout says."""
        arranged = [torch.cat(planes, dim=-1)] if self.layout == "packed" else planes
        return [*arranged, *parameters]

    def op(self, inputs: list[Tensor], h0: Tensor | None, problem: Problem) -> tuple[Tensor, Tensor]:
        """(out, h_last) of the family's op."""
        scan = getattr(torch.ops, f"rnnkit_{self.family}").scan
        out, h_last, _ = scan(
            inputs, h0, problem.lengths, problem.reset, *problem.extra, *self.options, self.direction, True
        )
        return out, h_last

    def reference(self, inputs: list[Tensor], h0: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        """(out, h_last) of the family's reference."""
        composite = importlib.import_module(f"{self.family}._ops").composite
        out, h_last = composite(inputs, h0, problem.lengths, problem.reset, *problem.extra, *self.options, self.direction)
        return out, h_last

    @property
    def initial_state(self) -> float:
        """The state where h0 is None."""
        return 0.0

    @property
    def state_dtype(self) -> torch.dtype:
        """Of h0 and h_last."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def __str__(self) -> str:
        parts = [f"{f.name}={value}" for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default]
        return ",".join(parts).replace("torch.", "").replace(" ", "") or "default"


Case = TypeVar("Case", bound=ScanCase)


def shapes_and_layouts(case: Case) -> list[Case]:
    """The case in all sizes that break things, in every layout, and with lengths in both directions."""

    def vary(**changes: Any) -> Case:
        return dataclasses.replace(case, **changes)

    return [
        case,
        *(vary(steps=steps, channels=3) for steps in STEPS),
        *(vary(steps=19, channels=channels) for channels in CHANNELS),
        vary(batch=0),
        vary(steps=1, h0=False),
        *(vary(layout=layout, dtype=dtype) for layout in LAYOUTS[1:] for dtype in (torch.float32, torch.bfloat16)),
        *(vary(layout="odd", channels=34, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)),
        *(vary(steps=70, dtype=dtype) for dtype in TOLERANCE),
        *(vary(saturated=True, dtype=dtype) for dtype in (torch.float32, torch.float64)),
        vary(saturated=True, h0=False, steps=1),
        vary(lengths=(40, 17)),
        vary(lengths=(0, 1), direction="backward", h0=False),
        vary(lengths=(33, 16), direction="backward", layout="time-major"),
        vary(reset=(0, 1, 20, 39)),
        vary(reset=(5,), h0=False, direction="backward", lengths=(40, 30)),
        vary(reset=(7, 16), direction="both", lengths=(40, 17), channels=34),
    ]


@dataclasses.dataclass
class Problem:
    """The tensors of a case: planes (B, T, D), each its own, with NaN in the padding; and gradients of out and h_last."""

    planes: list[Tensor]
    h0: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None
    extra: tuple[Tensor | None, ...]
    parameters: list[Tensor]
    grads: list[Tensor]

    @staticmethod
    def of(case: ScanCase, device: torch.device) -> Problem:
        """Draws them, always the same."""
        torch.manual_seed(0)
        shape = (case.batch, case.steps, case.channels)
        draw = saturated if case.saturated else torch.randn
        planes = [draw(*shape, dtype=torch.float64) for _ in case.names]
        planes = [plane.to(device, case.dtype) for plane in case.prepare(planes)]
        h0 = torch.randn(shape[::2], dtype=case.state_dtype).to(device) if case.h0 else None
        lengths = torch.tensor(case.lengths, device=device) if case.lengths else None
        if lengths is not None:
            padding = torch.arange(case.steps, device=device) >= lengths[:, None]
            planes = [plane.masked_fill(padding[..., None], torch.nan) for plane in planes]
        reset = None
        if case.reset is not None:
            reset = torch.zeros(shape[:2], dtype=torch.bool, device=device)
            reset[:, list(case.reset)] = True
        grads = [torch.randn(shape).to(device, case.dtype), torch.randn(shape[::2]).to(device, case.state_dtype)]
        parameters = [torch.randn(case.channels, dtype=case.state_dtype).to(device) / 2 for _ in case.parameter_names]
        return Problem(planes, h0, lengths, reset, case.extra(device), parameters, grads)

    def sequence(self, b: int) -> Problem:
        """Of one sequence alone."""
        one = slice(b, b + 1)
        h0 = None if self.h0 is None else self.h0[one]
        lengths = None if self.lengths is None else self.lengths[one]
        reset = None if self.reset is None else self.reset[one]
        planes, grads = ([t[one] for t in tensors] for tensors in (self.planes, self.grads))
        return Problem(planes, h0, lengths, reset, self.extra, self.parameters, grads)


def run_op(case: ScanCase, problem: Problem) -> list[Tensor]:
    """out, h_last, the gradients of the planes, of the parameters and, if there is an h0, its own."""
    planes = [plane.detach().requires_grad_() for plane in problem.planes]
    parameters = [t.detach().requires_grad_() for t in problem.parameters]
    h0 = problem.h0.detach().requires_grad_() if problem.h0 is not None else None
    if case.layout not in ("packed", "planes"):
        planes = [strided(plane.detach(), case.layout).requires_grad_() for plane in planes]
    out, h_last = case.op(case.inputs(planes, parameters), h0, problem)
    inputs = [*planes, *parameters, *([h0] if h0 is not None else [])]
    return [out, h_last, *torch.autograd.grad([out, h_last], inputs, problem.grads)]


def run_reference(case: ScanCase, problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """The same from the reference, with planes and states in `dtype`."""
    planes = [plane.detach().to(dtype).requires_grad_() for plane in problem.planes]
    parameters = [t.detach().to(dtype).requires_grad_() for t in problem.parameters]
    h0 = problem.h0
    if h0 is None:
        h0 = torch.full((case.batch, case.channels), case.initial_state, device=planes[0].device)
    h0 = h0.detach().to(dtype).requires_grad_()
    out, h_last = case.reference(case.inputs(planes, parameters), h0, problem)
    inputs = [*planes, *parameters, *([h0] if problem.h0 is not None else [])]
    grads = torch.autograd.grad([out, h_last], inputs, [g.to(dtype) for g in problem.grads], allow_unused=True)
    return [out, h_last, *(torch.zeros_like(t) if g is None else g for g, t in zip(grads, inputs, strict=True))]


@functools.cache
def answer(case: ScanCase, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """What the reference makes of a case's problem, computed once for all backends."""
    return [t.detach() for t in run_reference(case, Problem.of(case, device), dtype)]


def check_against_reference(case: ScanCase, device: torch.device) -> None:
    """Values and gradients are no further from the fp64 reference than the reference in the state's dtype is."""
    problem = Problem.of(case, device)
    with poisoned_outputs():
        actual = run_op(case, problem)
    oracle, baseline = answer(case, device, torch.float64), answer(case, device, case.state_dtype)
    for name, a, o, b in zip(result_names(case), actual, oracle, baseline, strict=False):
        assert_no_worse(name, a, o, b.to(a.dtype), TOLERANCE[a.dtype])
    if case.saturated:  # where values are tiny, only a relative error tells of cancellation
        for a, o, b in zip(actual[:2], oracle[:2], baseline[:2], strict=True):
            worst = _relative(b, o)
            assert _relative(a, o) <= 4 * worst + 1e-5, f"relative error {_relative(a, o):.1e}; PyTorch's {worst:.1e}"


def result_names(case: ScanCase) -> list[str]:
    """Of what `run_op` returns; the last may be missing."""
    return ["out", "h_last", *(f"grad of {name}" for name in (*case.names, *case.parameter_names)), "grad of h0"]


def _relative(actual: Tensor, oracle: Tensor) -> float:
    """The largest relative error, of numbers that float32 can tell from 0."""
    actual, oracle = actual.detach().double(), oracle.detach().double()
    seen = oracle.abs() > 1e-30
    errors = (actual - oracle).abs()[seen] / oracle.abs()[seen]
    return float(errors.max()) if errors.numel() else 0.0


def check_orders_agree(
    case: ScanCase, family: str, csrc: Path, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Emulated threads in any order give the same bits, and about the reference's numbers: over many steps, as cases here have,
    a sum of rounded terms depends on its order.
    """
    problem = Problem.of(case, torch.device("cpu"))
    results = []
    for order in ORDERS:
        emulate(family, csrc, order, device, monkeypatch)
        results.append(run_op(case, problem))
    for a, o in zip(results[0], answer(case, torch.device("cpu"), torch.float64), strict=True):
        torch.testing.assert_close(a.double(), o, rtol=1e-3, atol=1e-3)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def check_shared_time(case: ScanCase, threads: int, device: torch.device) -> None:
    """More threads than sequences: the CPU engine cuts time into chunks. Nothing may show of that; the case is float64."""
    with torch_threads(threads):
        actual = run_op(case, Problem.of(case, device))
    for a, e in zip(actual, answer(case, device, torch.float64), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-11, atol=1e-11)


def check_large_gradients(case: ScanCase) -> None:
    """Beyond 8 MB the CPU engine stores gradients another way; one sequence at a time is small enough for the usual one."""
    problem = Problem.of(case, torch.device("cpu"))
    whole = run_op(case, problem)
    assert whole[2].nbytes * len(case.names) > 8 << 20
    apart = []
    for b in range(case.batch):
        apart.append(run_op(dataclasses.replace(case, batch=1), problem.sequence(b)))
        assert apart[b][2].nbytes * len(case.names) < 8 << 20
    for name, expected, *of_sequences in zip(result_names(case), whole, *apart, strict=False):
        if name in [f"grad of {parameter}" for parameter in case.parameter_names]:
            torch.testing.assert_close(sum(of_sequences), expected, rtol=1e-4, atol=1e-3)
        else:
            assert torch.equal(torch.cat(of_sequences), expected), name
