"""All that a GPU is needed for, within minutes, on a machine that may have neither nox nor network nor patience.

    python benchmarks/on_gpu.py --minutes 8 --out FOLDER --wheels dist     wheels that were built elsewhere, for this GPU
    python benchmarks/on_gpu.py --minutes 8 --out FOLDER --emulate         all of it on a CPU, to find the typing errors

In this order, each step within its share of the time: the wheels are installed into a folder of their own; `pytest -m
gpu` runs for all families side by side; the candidates for the shape of a scan's launch are tried, and Li-GRU's engines
(tune.py); each family is measured, its most telling groups first; Nsight Compute looks at every kernel (kernels.py), and
compute-sanitizer at the tests that carry the mark `sanitized`, where these tools are there. After each step
FOLDER/on_gpu.tar.gz has all results so far; what is cut off loses only itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("mingru", "qrnn", "sru", "ligru", "rnnt_loss")
SHARES = {"install": 0.05, "tests": 0.25, "shapes": 0.1, "measurements": 0.35, "profile": 0.1, "sanitizers": 0.15}
TOOLS = ("memcheck", "racecheck", "synccheck")


@dataclasses.dataclass
class Session:
    """The run: where results go, and how much time is left."""

    minutes: float
    out: Path
    work: Path
    steps: list[dict[str, object]] = dataclasses.field(default_factory=list)
    start: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return 60 * self.minutes - (time.monotonic() - self.start)

    def step(self, name: str, seconds: float, commands: Mapping[str, Sequence[str]], environment: Mapping[str, str]) -> None:
        """Runs commands side by side, each into a log of its own, and ends what takes longer."""
        begin = time.monotonic()
        running = {}
        for label, command in commands.items():
            log = (self.work / f"{name}-{label}.log").open("w")
            running[label] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        for label, process in running.items():
            limit = max(1.0, min(seconds, self.left) - (time.monotonic() - begin))
            try:
                status: object = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = "cut off"
            took = round(time.monotonic() - begin, 1)
            self.steps.append({"step": name, "of": label, "status": status, "seconds": took})
            lines = (self.work / f"{name}-{label}.log").read_text(errors="replace").strip().splitlines()
            print(
                f"{time.monotonic() - self.start:6.1f} s  {name} {label}: {status}; {lines[-1][:150] if lines else ''}",
                flush=True,
            )
        self.archive()

    def archive(self) -> None:
        """All results so far, in one file, which is whole at any moment."""
        (self.work / "steps.json").write_text(json.dumps(self.steps, indent=1) + "\n")
        temporary = self.out / "on_gpu.part"
        with tarfile.open(temporary, "w:gz") as file:
            file.add(self.work, "on_gpu")
        temporary.replace(self.out / "on_gpu.tar.gz")


def tests(family: str, emulate: bool, workers: int) -> list[str]:
    """pytest of what needs a GPU; emulated, of a few cases."""
    chosen = ["-m", "sanitized", "-k", "emulated and not survive"] if emulate else ["-m", "gpu"]
    parallel = ["-n", str(workers)] if importlib.util.find_spec("xdist") else []
    return [
        sys.executable,
        "-m",
        "pytest",
        f"tests/{family}",
        *chosen,
        *parallel,
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
    ]


def main() -> None:
    """Parses the options and runs all steps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True, help="where on_gpu.tar.gz goes")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="a folder with a wheel of each family")
    parser.add_argument("--emulate", action="store_true", help="no GPU: small sizes, on the CPU")
    parser.add_argument("--commit", help="that the wheels were built of; default: that of this checkout")
    parser.add_argument("--steps", nargs="*", choices=list(SHARES), default=list(SHARES), help="only these")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    session = Session(options.minutes, options.out, Path(tempfile.mkdtemp(prefix="on_gpu-")))
    site = session.work.with_name(session.work.name + "-site")
    environment = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "packages" / "common" / "src")])}
    if options.commit:
        environment["RNNKIT_COMMIT"] = options.commit
    device, workers = "emulated" if options.emulate else "cuda", max(1, (os.cpu_count() or 1) // len(FAMILIES))
    seconds = {name: 60 * options.minutes * share for name, share in SHARES.items()}

    wheels = [
        max(options.wheels.glob(f"rnnkit_{f}-*.whl"), key=lambda path: path.stat().st_mtime, default=None) for f in FAMILIES
    ]
    files = [str(wheel) for wheel in wheels if wheel is not None]
    if len(files) < len(FAMILIES):
        sys.exit(f"{options.wheels} has wheels of {len(files)} of the {len(FAMILIES)} families")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site), *files]
    session.step("install", seconds["install"], {"wheels": pip}, {})
    if "tests" in options.steps:
        commands = {family: tests(family, options.emulate, workers) for family in FAMILIES}
        session.step("tests", seconds["tests"], commands, environment)
    if "shapes" in options.steps:
        for engine in ("ligru", "scan"):
            tune = [sys.executable, "benchmarks/tune.py", engine, "--device", device, "--folder", str(session.work)]
            session.step("shapes", seconds["shapes"] / 2, {engine: tune}, environment)
    if "measurements" in options.steps:
        measured = ("calls", *FAMILIES)
        each = seconds["measurements"] / len(measured)
        for name in measured:
            command = [sys.executable, f"benchmarks/bench_{name}.py", "--device", device, "--folder", str(session.work)]
            limits = ["--minutes", str(0.8 * each / 60), "--seconds", "1.0", "--no-compiling"]
            session.step("measurements", each, {name: [*command, *limits]}, environment)
    profiled = [sys.executable, "benchmarks/kernels.py", "--device", device]
    if "profile" in options.steps:
        ncu = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
        names = "regex:scan|serial|resident|_step|joint|lattice|exponentials|simple|join"
        nsight = [ncu, "--set", "full", "-k", names, *profiled] if ncu and not options.emulate else profiled
        session.step(
            "profile", seconds["profile"], {"Nsight Compute" if ncu else "without Nsight Compute": nsight}, environment
        )
    if "sanitizers" in options.steps:
        sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if sanitizer is None or options.emulate:
            session.steps.append(
                {"step": "sanitizers", "status": "no compute-sanitizer" if sanitizer is None else "emulated"}
            )
        else:
            chosen = ["-m", "gpu and sanitized", "-q", "-p", "no:cacheprovider"]
            for tool in TOOLS:
                check = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "pytest"]
                commands = {f"{tool} {family}": [*check, f"tests/{family}", *chosen] for family in FAMILIES}
                session.step("sanitizers", seconds["sanitizers"] / len(TOOLS), commands, environment)
    session.archive()
    print(f"{session.out / 'on_gpu.tar.gz'} after {time.monotonic() - session.start:.0f} s")
    failed = [step for step in session.steps if step.get("status") not in (0, "cut off", "emulated", "no compute-sanitizer")]
    sys.exit(f"failed: {failed}" if failed else 0)


if __name__ == "__main__":
    main()
