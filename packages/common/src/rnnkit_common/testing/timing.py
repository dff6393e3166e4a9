"""Timing for benchmarks: candidates take turns in one run, so that what slows the machine slows them all."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def alternate(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 3.0,
    least: int = 5,
    warmup: int = 3,
    cuda: bool = False,
) -> dict[str, dict[str, float]]:
    """Runs the candidates in turn for about `seconds` and returns per candidate the median and quartiles, in seconds.

    Each runs at least `least` times (2 or more). On a GPU (`cuda=True`) the time is that between two events around a call,
    after a call that keeps the queue full.
    """
    for run in candidates.values():
        for _ in range(warmup):
            run()
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < least:
        for name, run in candidates.items():
            samples[name].append(_cuda_seconds(run) if cuda else _seconds(run))
    return {name: summary(times) for name, times in samples.items()}


def training_step(layer: Callable[..., Any], x: Tensor) -> Callable[[], None]:
    """Forward and backward of a layer, whose (first) output gets a random gradient, always the same."""
    grads: list[Tensor] = []

    def run() -> None:
        out = layer(x)
        out = out[0] if isinstance(out, tuple) else out
        if not grads:
            grads.append(torch.randn_like(out))
        out.backward(grads[0])

    return run


def inference(layer: Callable[..., Any], *inputs: Any) -> Callable[[], None]:
    """A call that keeps nothing for a backward pass."""

    def run() -> None:
        with torch.no_grad():
            layer(*inputs)

    return run


def several(run: Callable[[], Any], count: int = 20) -> Callable[[], None]:
    """Several calls, so that reading the clock counts for nothing, and one call finds in the caches what the last left there."""

    def runs() -> None:
        for _ in range(count):
            run()

    return runs


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed, as it does in the steady state of a training loop; elsewhere, does nothing.

    Otherwise it returns large buffers to the system when one candidate frees them, and the next pays for faulting its own in
    again: candidates that take turns would measure each other's allocations.
    """
    trim_threshold, mmap_threshold = -1, -3  # parameters of mallopt, from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**25)  # the most it takes


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], Any]) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    run()
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / 1e3


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles of some times, and how many they are."""
    low, median, high = statistics.quantiles(times, n=4)
    return {"median": median, "quartile1": low, "quartile3": high, "runs": len(times)}


def hardware(cuda: bool = False) -> dict[str, Any]:
    """What the numbers were measured on, and with: the commit is that of the running script, with a + where sources differ from it."""
    machine: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "commit": _commit()}
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        machine |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}
    machine |= {"cpu": _cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    machine["simd"] = torch.backends.cpu.get_cpu_capability()
    return machine


def _commit() -> str | None:
    if "RNNKIT_COMMIT" in os.environ:  # where the sources are a copy, without their repository
        return os.environ["RNNKIT_COMMIT"]
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or shutil.which("git") is None:
        return None
    git = ["git", "-C", str(Path(script).resolve().parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    sources = [f":(top,glob)**/*.{suffix}" for suffix in ("py", "h", "cpp", "cu")]
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *sources]).returncode
    return head.stdout.strip() + ("+" if changed else "") if head.returncode == 0 else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
        stripped = {key.strip(): value.strip() for key, value in fields.items()}
        return f"{stripped.get('model name', platform.processor())} (model {stripped.get('model', '?')})"
    return platform.processor()
