"""The ways a family's kernels can be run: the CPU's instruction sets, emulated CUDA in several orders, and a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rnnkit_common import build

ORDERS = {"forward": (0, 0), "reversed": (1, 0), "shuffled-1": (2, 1), "shuffled-2": (2, 2)}
# Emulated devices: one so small that no sequence is cut in time, one so large that blocks and clusters share each.
MULTIPROCESSORS = {"small": 1, "large": 132}


@dataclasses.dataclass(frozen=True)
class Backend:
    """Where kernels run."""

    name: str
    cpu_target: str | None = None
    order: str | None = None
    multiprocessors: int = 132

    @property
    def device(self) -> torch.device:
        """Of the tensors that reach these kernels."""
        return torch.device("cuda" if self.name == "cuda" else "cpu")

    def activate(self, family: str, csrc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes `torch.ops.rnnkit_<family>` run on this backend until the test ends."""
        if self.cpu_target is not None:
            monkeypatch.setenv("RNNKIT_CPU_TARGET", self.cpu_target)
        if self.order is not None:
            configure, ops = _emulated(family, csrc)
            configure(*ORDERS[self.order], self.multiprocessors)
            monkeypatch.setattr(torch.ops, f"rnnkit_{family}", ops)


def backend_parameters() -> list[Any]:
    """Parameters for a fixture: all backends; that on a GPU carries the mark `gpu` and is skipped where there is none."""
    backends = [Backend(f"cpu-{target}", cpu_target=target) for target in cpu_targets()]
    for order in ORDERS:
        for size, count in MULTIPROCESSORS.items():
            backends.append(Backend(f"emulated-{order}-{size}", order=order, multiprocessors=count))
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    return [
        *(pytest.param(backend, id=backend.name) for backend in backends),
        pytest.param(Backend("cuda"), id="cuda", marks=[pytest.mark.gpu, no_gpu]),
    ]


def cpu_targets() -> list[str]:
    """The instruction sets that this machine can run, of those that the libraries are compiled for."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return ["avx512", "avx2", "baseline"]
    return ["avx2", "baseline"] if capability == "AVX2" else ["baseline"]


@functools.cache
def _emulated(family: str, csrc: Path) -> tuple[Any, Any]:
    """(configure(order, seed, multiprocessors), ops) of the family's CUDA code compiled for the CPU."""
    name = "sanitized" if os.environ.get("RNNKIT_SANITIZE") == "1" else "plain"
    library = build.emulate(csrc, family, csrc.parent / "build" / "emulated" / name)
    torch.ops.load_library(str(library))
    namespace = f"rnnkit_{family}_emulated"
    importlib.import_module(f"{family}._ops").register(namespace)
    configure = ctypes.CDLL(str(library)).rnnkit_emulation_configure
    configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    return configure, getattr(torch.ops, namespace)
