"""Every native header by itself, as an editor reads it: it compiles, and clang-tidy has nothing to say (.clang-tidy).

Run by `nox -s headers`, in an environment with torch and clang-tidy; arguments: the headers, or none for all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
INCLUDE = ROOT / "packages/common/src/rnnkit_common/include"
FLAGS = ["-std=c++17", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DRNNKIT_NAMESPACE=alone", "-DRNNKIT_TEST_LIBRARY"]


def complaints(header: Path) -> str:
    """What is wrong with a header, or nothing."""
    parts = header.relative_to(ROOT).parts
    flags = [*FLAGS, f"-I{INCLUDE}"]
    for folder in (*cpp_extension.include_paths(), sysconfig.get_path("include")):
        flags += ["-isystem", folder]
    if "csrc" in parts:
        flags.append(f"-I{ROOT.joinpath(*parts[: parts.index('csrc') + 1])}")
    if "cuda" in parts:
        flags.append("-DRNNKIT_EMULATE_CUDA")
    if header.name == "foreach_target.h":
        flags.append("-DRNNKIT_KERNELS=<rnnkit/cpu/math.h>")
    command = ["clang-tidy", "--quiet", "--experimental-custom-checks", str(header), "--", "-x", "c++", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return ran.stdout + ran.stderr if ran.returncode else ""


def main() -> None:
    """All headers, two at a time or as many as there are cores; exits with an error if one has complaints."""
    headers = [Path(name).resolve() for name in sys.argv[1:]]
    headers = headers or sorted(
        [*INCLUDE.rglob("*.h"), *ROOT.glob("packages/*/csrc/**/*.h"), *ROOT.glob("examples/*/csrc/*.h")]
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = dict(zip(headers, pool.map(complaints, headers), strict=True))
    for header, answer in answers.items():
        if answer:
            print(f"{header.relative_to(ROOT)} does not stand alone:\n{answer}")
    print(f"{len(headers)} headers, {sum(map(bool, answers.values()))} with complaints")
    sys.exit(any(answers.values()))


if __name__ == "__main__":
    main()
