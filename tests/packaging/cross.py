"""Builds wheels on x86-64 for other platforms, and tests those that can be emulated here: python cross.py PLATFORM FAMILY ...

aarch64  compiled by Debian's g++-aarch64-linux-gnu, tested with torch's own wheel and Debian's Python under qemu-user-static:
         `apt install g++-aarch64-linux-gnu qemu-user-static`. Some 4 GB of downloads, which stay in build/aarch64.
macos    compiled by zig (PyPI: ziglang) and linked to torch's own wheel. Nothing runs it here: it shows that it builds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import contents

ROOT = Path(__file__).parents[2]
TORCH = os.environ.get("RNNKIT_TORCH", "torch==2.13.0")
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TAGS = {  # of wheels that a platform takes
    "aarch64": [*(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)), "manylinux2014_aarch64"],
    "macos": ["macosx_14_0_arm64"],
}


def main() -> None:
    platform, *families = sys.argv[1:]
    folder = ROOT / "build" / platform
    folder.mkdir(parents=True, exist_ok=True)
    libraries = torch_libraries(platform, folder)
    wheels = [build(platform, family, libraries, folder) for family in families]
    if platform == "aarch64":
        for wheel in wheels:
            check_vectors(wheel, folder)
        site = aarch64_site(folder)
        for family, wheel in zip(families, wheels, strict=True):
            test_on_aarch64(family, wheel, site, folder)


def torch_libraries(platform: str, folder: Path) -> Path:
    """torch/lib of torch's wheel for a platform."""
    site = folder / "torch-alone"
    if not site.exists():
        pip("install", "--no-deps", *of_platform(platform), "--target", site, TORCH)
    return site / "torch" / "lib"


def build(platform: str, family: str, libraries: Path, folder: Path) -> Path:
    for language in ("cc", "c++"):
        zig = folder / f"zig-{language}"  # setuptools wants the name of one program
        zig.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang {language} -target aarch64-macos.14.0 "$@"\n')
        zig.chmod(0o755)
    tools = {
        "aarch64": {
            "CC": "aarch64-linux-gnu-gcc",
            "CXX": "aarch64-linux-gnu-g++",
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",
            "RNNKIT_GLIBC": "2.28",
        },
        "macos": {
            "CC": str(folder / "zig-cc"),
            "CXX": str(folder / "zig-c++"),
            "_PYTHON_HOST_PLATFORM": "macosx-14.0-arm64",
            "MACOSX_DEPLOYMENT_TARGET": "14.0",
        },
    }[platform]
    shared = f"{tools['CXX']} -shared"
    environment = {**os.environ, **tools, "RNNKIT_CUDA": "0", "LDFLAGS": f"-L{libraries}"}
    environment |= {"LDSHARED": shared, "LDCXXSHARED": shared, "RNNKIT_LOCAL_VERSION": "cpu"}
    made = folder / "wheels" / family
    shutil.rmtree(made, ignore_errors=True)
    temporary = ["--build-base", str(folder / "objects" / family)]
    command = [sys.executable, "setup.py", "-q", "build", *temporary, "bdist_wheel", "--dist-dir", str(made)]
    subprocess.run(command, cwd=ROOT / "packages" / family, env=environment, check=True)
    (wheel,) = made.glob("*.whl")
    if platform == "aarch64":
        # auditwheel knows the tags of its own platform alone; contents.check holds the library to this one
        tag = ["-m", "wheel", "tags", "--remove", "--platform-tag", "manylinux_2_28_aarch64", str(wheel)]
        subprocess.run([sys.executable, *tag], check=True, stdout=subprocess.DEVNULL)
        (wheel,) = made.glob("*.whl")
        contents.check(wheel)
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    return wheel


def check_vectors(wheel: Path, folder: Path) -> None:
    """Fails where the kernels' floating-point instructions work on single numbers, but for the ends of loops."""
    with zipfile.ZipFile(wheel) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        path = archive.extract(library, folder)
    listed = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    )
    kinds = Counter(
        "scalar" if re.match(r"[sdh]\d", operands) else "vector"
        for operands in re.findall(r"\tf(?!mov|c?sel|cmp|ccmp)\w+\s+(\S+)", listed.stdout)
        if re.match(r"[sdh]\d|v\d+\.[248][shd]", operands)
    )
    counted = f"{wheel.name}: floating-point instructions of vectors {kinds['vector']}, of single numbers {kinds['scalar']}"
    print(counted, flush=True)
    if kinds["scalar"] > kinds["vector"] / 10:
        raise SystemExit(f"{counted}: the compiler made scalars of vectors (rnnkit/cpu/math.h, RNNKIT_NEON)")


def aarch64_site(folder: Path) -> Path:
    """Packages for aarch64: torch with all that it needs, and pytest; beside it, in `root`, Debian's Python."""
    root, site = folder / "root", folder / "site"
    if not root.exists():
        state = folder / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = ["APT::Architecture=arm64", "APT::Architectures=arm64", "APT::Sandbox::User=root"]
        options += [f"Dir::State={state}/state", f"Dir::Cache={state}/cache", f"Dir::State::status={state}/status"]
        apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
        subprocess.run([*apt, "update"], check=True)
        wanted = [f"python{PYTHON}", "libstdc++6", "libgomp1"]
        subprocess.run([*apt, "install", "--download-only", "--yes", "--no-install-recommends", *wanted], check=True)
        for package in state.glob("cache/archives/*.deb"):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        # torch's cpuinfo reads here which CPU it is on, and does not survive the description of another kind
        core = "processor : {}\nFeatures : fp asimd atomics fphp asimdhp asimdrdm asimddp cpuid\nCPU implementer : 0x41\nCPU architecture: 8\nCPU part : 0xd0c\n\n"
        cores = root / "sys/devices/system/cpu"
        for file, text in {
            root / "proc/cpuinfo": core.format(0) + core.format(1),
            cores / "possible": "0-1\n",
            cores / "present": "0-1\n",
        }.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    if not site.exists():
        pip("install", *of_platform("aarch64"), "--target", site, TORCH, "numpy", "pytest", "pytest-xdist", "setuptools")
    return site


def test_on_aarch64(family: str, wheel: Path, site: Path, folder: Path) -> None:
    own = folder / "wheels" / family / "site"
    pip("install", "--no-deps", *of_platform("aarch64"), "--upgrade", "--target", own, wheel)
    path = os.pathsep.join(map(str, (own, site, ROOT / "packages/common/src")))
    qemu = ["qemu-aarch64-static", "-L", folder / "root", folder / "root/usr/bin" / f"python{PYTHON}"]
    chosen = ["-q", "-p", "no:cacheprovider", "-m", "kernels and not slow", "-k", "not emulated", f"tests/{family}"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "QEMU_CPU": "neoverse-n1"}
    limit = 32 << 30  # bytes: emulated, a machine has any memory that a test asks for to see it refused
    subprocess.run(["prlimit", f"--as={limit}", *qemu, "-m", "pytest", *chosen], cwd=ROOT, env=environment, check=True)


def of_platform(platform: str) -> list[str]:
    return [*(f"--platform={tag}" for tag in TAGS[platform]), "--python-version", PYTHON, "--only-binary=:all:"]


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
