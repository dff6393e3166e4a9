"""The ways a family's kernels can be run: the CPU's instruction sets, emulated CUDA, and a GPU.

Emulated threads take turns in an order that depends on the test: of many tests of one kernel, each order gets some.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rnnkit_common import build

_NO_KERNELS = {"view", "t", "transpose", "as_strided", "flatten", "empty", "empty_strided", "resolve_conj"}
ORDERS = {"forward": (0, 0), "reversed": (1, 0), "shuffled-1": (2, 1), "shuffled-2": (2, 2)}


class EmulatedDevice(NamedTuple):
    """What the kernels are told of the device that is emulated."""

    multiprocessors: int
    capability: int  # 90 for 9.0; it decides on clusters, shared memory, and which instructions there are


# One so small that no sequence is cut in time, one whose blocks share each, and one with clusters of blocks.
DEVICES = {"small": EmulatedDevice(1, 75), "medium": EmulatedDevice(84, 86), "large": EmulatedDevice(132, 90)}
# And one of whose blocks some share each sequence, in several turns.
SHARING_DEVICES = {**DEVICES, "few": EmulatedDevice(12, 86)}


@dataclasses.dataclass(frozen=True)
class Backend:
    """Where kernels run."""

    name: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)  # that makes them run there
    emulated: EmulatedDevice | None = None
    dispatched: bool = False  # whether all calls go by torch's dispatcher, small ones too

    @property
    def device(self) -> torch.device:
        """Of the tensors that reach these kernels."""
        return torch.device("cuda" if self.name.startswith("cuda") else "cpu")

    def activate(self, family: str, csrc: Path, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes `torch.ops.rnnkit_<family>` run on this backend until the test, of that name, ends."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        if self.dispatched:
            monkeypatch.setattr(importlib.import_module(f"{family}._modes"), "_mode_count", lambda: 1)
        if self.emulated is not None:
            order = list(ORDERS)[zlib.crc32(test.encode()) % len(ORDERS)]
            emulate(family, csrc, order, self.emulated, monkeypatch)


def emulate(family: str, csrc: Path, order: str, device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `torch.ops.rnnkit_<family>` run emulated CUDA, its threads in one of ORDERS, until the test ends."""
    library, ops, calls = _emulated(family, csrc)
    library.rnnkit_emulation_configure(*ORDERS[order], *device)
    monkeypatch.setattr(torch.ops, f"rnnkit_{family}", ops)
    monkeypatch.setattr(importlib.import_module(f"{family}._ops"), "CALLS", calls)


def kernels_of(family: str, csrc: Path, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Counter[str]]:
    """What a GPU has to run for ops: how many kernels of the family, and which ops of torch's they call, but for views.

    Args:
        family: its name.
        csrc: where its native sources are.
        run: calls them, with tensors on the CPU, where they are emulated.
        monkeypatch: what undoes that.
    """
    emulate(family, csrc, "forward", DEVICES["large"], monkeypatch)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    in_ops = [e for e in profiled.events() if e.cpu_parent is not None and e.cpu_parent.name.startswith("rnnkit_")]
    names = [event.name.removeprefix("aten::") for event in in_ops if event.name.startswith("aten::")]
    called = Counter(name for name in names if name not in _NO_KERNELS)
    return _emulated(family, csrc)[0].rnnkit_emulation_launches(), called


def backend_fixtures(
    family: str, csrc: Path, emulated: Mapping[str, EmulatedDevice] = DEVICES, engine: str | None = None
) -> tuple[Any, Any, Any]:
    """The fixtures for the conftest.py of a family's tests: `backend`, all backends; `few_backends`, one of a kind; and
    `host_backends`, those of `few_backends` without the GPU, whose context ends with the first error on it.

    Those on a GPU carry the mark `gpu`, and are skipped where there is none.

    Args:
        family: its name.
        csrc: where its native sources are.
        emulated: the emulated devices, by name.
        engine: the environment variable that chooses an engine, which those names are then, on a GPU too.
    """

    def environment(name: str) -> dict[str, str]:
        return {} if engine is None else {engine: name}

    compiled = compiled_targets(family)
    targets = [Backend(f"cpu-{target}", {"RNNKIT_CPU_TARGET": target}) for target in compiled]
    targets.append(Backend("cpu-dispatched", {"RNNKIT_CPU_TARGET": compiled[0]}, dispatched=True))
    devices = [Backend(f"emulated-{name}", environment(name), device) for name, device in emulated.items()]
    gpus = [Backend("cuda")] if engine is None else [Backend(f"cuda-{name}", environment(name)) for name in emulated]
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

    def fixture(name: str, *backends: Backend) -> Any:
        def activated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
            backend: Backend = request.param
            backend.activate(family, csrc, request.node.nodeid, monkeypatch)
            return backend

        marks = {True: [pytest.mark.gpu, no_gpu], False: []}
        parameters = [pytest.param(b, id=b.name, marks=marks[b.device.type == "cuda"]) for b in backends]
        return pytest.fixture(params=parameters, name=name)(activated)

    few = (targets[0], devices[-1])
    return (
        fixture("backend", *targets, *devices, *gpus),
        fixture("few_backends", *few, gpus[-1]),
        fixture("host_backends", *few),
    )


def compiled_targets(family: str) -> list[str]:
    """The instruction sets that this machine can run, of those that a family's installed library is compiled for."""
    library = ctypes.CDLL(importlib.import_module(f"{family}._C").__file__)
    library.rnnkit_cpu_targets.restype = ctypes.c_char_p
    compiled = library.rnnkit_cpu_targets().decode().split()
    return [target for target in cpu_targets() if target in compiled]


def cpu_targets() -> list[str]:
    """The instruction sets that this machine can run, the best first."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        more = ["avx512_bf16"] if torch.cpu._is_avx512_bf16_supported() else []
        return [*more, "avx512", "avx2", "baseline"]
    return ["avx2", "baseline"] if capability == "AVX2" else ["baseline"]


@functools.cache
def _emulated(family: str, csrc: Path) -> tuple[Any, Any, Any]:
    """The family's CUDA code compiled for the CPU: the library, its ops, and the shortest ways to call them."""
    name = {"1": "sanitized", "2": "sanitized-long"}.get(os.environ.get("RNNKIT_SANITIZE", ""), "plain")
    path = build.emulate(csrc, family, csrc.parent / "build" / "emulated" / name)
    torch.ops.load_library(str(path))
    namespace = f"rnnkit_{family}_emulated"
    calls = importlib.import_module(f"{family}._ops").register(namespace)
    library = ctypes.CDLL(str(path))
    library.rnnkit_emulation_configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    return library, getattr(torch.ops, namespace), calls
