"""What every benchmark script is beside its measurements: options, hardware, JSON, and pictures that are drawn from the JSON alone."""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rnnkit_common.testing import hardware

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parents[1] / "peers"  # fetched; git ignores it
QUICK = 1 / 20  # of the usual seconds
Result = dict[str, Any]


def main(
    name: str,
    *,
    cpu: Callable[[float], Result],
    gpu: Callable[[float], Result],
    report: Callable[[Result], None],
    draw: Callable[[Result, Path], None],
    seconds: float = 10.0,
) -> None:
    """Measures and writes <folder>/<name>-<device>.json, reports it, and draws <name>-<device>*.png from it.

    Args:
        name: of the package.
        cpu, gpu: measure, with so many seconds for each group of candidates.
        report: prints the ratios that matter.
        draw: from the JSON's content, to files whose names begin as the path does.
        seconds: for each group of candidates, unless the user says otherwise.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=seconds, help="for each group of candidates")
    parser.add_argument("--quick", action="store_true", help="few runs each, to see that all of it works; nothing is kept")
    parser.add_argument("--draw", action="store_true", help="only draw what the JSON has")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go")
    options = parser.parse_args()
    folder = options.folder
    if options.quick:
        options.seconds *= QUICK
        folder = Path(__file__).parents[1] / "build" / "quick"
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-{options.device}"
    path = stem.with_suffix(".json")
    if not options.draw:
        PEERS.mkdir(exist_ok=True)
        torch.manual_seed(0)
        machine = hardware(options.device == "cuda")
        result = cpu(options.seconds) if options.device == "cpu" else gpu(options.seconds)
        report(result)
        path.write_text(json.dumps({"hardware": machine, **result}, indent=2) + "\n")
    draw(json.loads(path.read_text()), stem)
    print(f"\n{path}")


def machine_name(document: Result) -> str:
    """Of the GPU, or of the CPU."""
    found: str = document["hardware"].get("gpu", document["hardware"]["cpu"])
    return found


def beside(stem: Path, suffix: str) -> Path:
    """The file whose name is that of `stem` with `suffix`."""
    return stem.with_name(stem.name + suffix)


def peak_beyond(run: Callable[[], Any]) -> float:
    """Megabytes that a call needs beside what is there: on a CPU from the kernel's high-water mark of this process."""
    if torch.cuda.is_available():
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    run()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])
