"""Compiles all families with the address and undefined-behaviour sanitizers, and tests them: python sanitized.py [PYTEST OPTIONS].

Emulated CUDA is included. A family at a time on each core; libraries stay in build/sanitized, or, optimised, as long runs want
them, in build/sanitized-long.
"""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW_FIRST = ("sru", "ligru")
FAMILIES = sorted((path.parent.name for path in ROOT.glob("packages/*/setup.py")), key=lambda name: name not in SLOW_FIRST)


def work(family: str, options: list[str]) -> bool:
    """Whether all was well; prints what was not."""
    start = time.perf_counter()
    kind = "sanitized" if options == ["-m", "sanitized"] else "sanitized-long"
    folder, base = ROOT / "packages" / family, ROOT / "build" / kind / family
    runtimes = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    compiling = {**os.environ, "RNNKIT_SANITIZE": "1" if kind == "sanitized" else "2", "RNNKIT_QUICK": "1", "MAX_JOBS": "1"}
    running = {
        **compiling,
        "OMP_NUM_THREADS": "1",  # tests that are about threads ask for theirs
        "LD_PRELOAD": ":".join(runtimes),
        # CPython and torch keep memory until they end; who asks for more than there is gets an error, as without sanitizer
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    steps = [
        ([sys.executable, "setup.py", "-q", "build", f"--build-base={base}"], folder, compiling),
        ([sys.executable, "-m", "pytest", f"tests/{family}", "-q", "-p", "no:cacheprovider", *options], ROOT, running),
    ]
    for command, where, environment in steps:
        if environment is running:
            (library,) = base.glob("lib*")
            running["PYTHONPATH"] = str(library)
        done = subprocess.run(
            command, cwd=where, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            print(f"{family}: {' '.join(command)}\n{done.stdout[-20000:]}", flush=True)
            return False
    print(f"{family}: {done.stdout.strip().splitlines()[-1]}; {time.perf_counter() - start:.0f} s in all", flush=True)
    return True


def main() -> None:
    """Works on all families."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda family: work(family, sys.argv[1:]), FAMILIES))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
