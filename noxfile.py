# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Everything that is done with this repository: `nox -l` lists it, `nox -s NAME` does it, `nox -s NAME -- ARGUMENTS` passes on.

Environment variables:
    RNNKIT_TORCH           the torch to install, as pip takes it; default: the version this repository is tested with
    TORCH_CUDA_ARCH_LIST   GPU architectures to compile for; default: the GPU that is there, or 9.0 (all, in `build`)
    others                 see packages/common/src/rnnkit_common/build.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typecheck", "tests"]

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
FAMILIES = [name for name in PACKAGES if (ROOT / "packages" / name / "setup.py").exists()]
SUITES = [*PACKAGES, "packaging"]
GROUPS = nox.project.load_toml("pyproject.toml")
TORCH = os.environ.get("RNNKIT_TORCH", "torch==2.13.0")

# CUDA version -> the toolkit on PyPI that builds for it; None: PyPI has no nvcc, the toolkit is taken from CUDA_HOME.
CUDA = {
    "cpu": None,
    "cu126": None,
    "cu128": None,
    "cu129": None,
    "cu130": "cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.2",
    "cu132": "cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.2.0",
}


def per_package(names: list[str]) -> Callable[..., object]:
    return nox.parametrize("package", [nox.param(name, id=name) for name in names])


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(GROUPS, name)


def install(session: nox.Session, *packages: str, extras: list[str] | None = None) -> None:
    """Installs torch, then packages of this repository from their folders, built against that torch."""
    session.install(TORCH, "setuptools>=77", "wheel", "ninja", *(extras or []))
    session.env.setdefault("TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST", _architectures(session)))
    for package in packages:
        session.install("--no-build-isolation", "--no-deps", f"./packages/{package}")


def _architectures(session: nox.Session) -> str:
    code = "import torch; print('%d.%d' % torch.cuda.get_device_capability() if torch.cuda.is_available() else '9.0')"
    return str(session.run("python", "-c", code, silent=True)).strip()


@nox.session
def demo(session: nox.Session) -> None:
    """Train a minGRU to copy selectively, on the GPU or the CPU that is there, and show what was won."""
    install(session, "common", "mingru", extras=group("demo"))
    session.run("python", "packages/mingru/examples/selective_copying.py", *session.posargs)


@nox.session
@per_package(SUITES)
def tests(session: nox.Session, package: str) -> None:
    """Test one package with nothing else of this repository but common: CPU, emulated CUDA, and CUDA where there is one."""
    families = [package] if package in FAMILIES else []
    install(session, "common", *families, extras=group("test"))
    if package == "packaging":
        session.install("nox")
    parallel = [] if package == "packaging" else ["-n", "auto"]  # its tests share what they build
    session.run("python", "-m", "pytest", f"tests/{package}", *parallel, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and spelling (`-- --fix` mends what can be mended)."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    native = [
        str(p) for suffix in ("h", "cpp", "cu") for p in sorted(ROOT.glob(f"*/**/*.{suffix}")) if "build" not in p.parts
    ]
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))
    session.run("clang-format", *(["-i"] if fix else ["--dry-run", "-Werror"]), *native)
    session.run("codespell", *(["-w"] if fix else []))


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install(TORCH, "pytest", *group("typecheck"))
    sources = [f"packages/{package}/src" for package in PACKAGES]
    session.run("mypy", *sources, env={"MYPYPATH": os.pathsep.join(sources)})


@nox.session(tags=["wheels"])
@nox.parametrize("cuda", [nox.param(name, id=name) for name in CUDA])
@per_package(FAMILIES)
def build(session: nox.Session, package: str, cuda: str) -> None:
    """Build one package's wheel for one CUDA version into dist/: for every Python >= 3.10 and every torch >= 2.11."""
    session.install(TORCH, "setuptools>=77", "wheel", "ninja")
    session.env["RNNKIT_LOCAL_VERSION"] = cuda
    session.env["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST", "all")
    if cuda == "cpu":
        session.env["RNNKIT_CUDA"] = "0"
    elif CUDA[cuda] is not None:
        session.install(CUDA[cuda])
        (home,) = Path(session.virtualenv.location).glob("lib/python*/site-packages/nvidia/cu*")
        session.env["CUDA_HOME"] = str(home)
    else:
        _require_toolkit(session, cuda)
    session.run("pip", "wheel", "--no-build-isolation", "--no-deps", "-w", "dist", f"./packages/{package}")


def _require_toolkit(session: nox.Session, cuda: str) -> None:
    nvcc = Path(os.environ.get("CUDA_HOME", "")) / "bin" / "nvcc"
    if "CUDA_HOME" not in os.environ or not nvcc.exists():
        session.skip(f"{cuda} needs a CUDA toolkit with nvcc, which PyPI does not have for CUDA 12: set CUDA_HOME to one")
    release = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    wanted = f"release {cuda[2:4]}.{cuda[4:]},"
    if wanted not in release:
        session.skip(
            f"{cuda} needs CUDA {cuda[2:4]}.{cuda[4:]}, but CUDA_HOME={os.environ['CUDA_HOME']} has another version"
        )


@nox.session(tags=["wheels"])
def audit(session: nox.Session) -> None:
    """Check the wheels in dist/: the ABI they ask for, their tags, their metadata."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if not wheels:
        session.skip("dist/ has no wheels: run `nox -t wheels` first")
    session.install(TORCH, *group("audit"))
    for wheel in wheels:
        unpacked = Path(session.create_tmp()) / wheel.stem
        session.run("python", "-m", "zipfile", "-e", str(wheel), str(unpacked))
        session.run("torch-abi-audit", "--check", "both", *map(str, unpacked.glob("*/*.so")))
    session.run("abi3audit", "--strict", *map(str, wheels))
    session.run("twine", "check", *map(str, wheels))


@nox.session
@per_package(FAMILIES)
def install_alone(session: nox.Session, package: str) -> None:
    """Install one package as a user would, in isolation, with nothing else of this repository, and run it."""
    version = TORCH.split("==")[-1]
    constraint = Path(session.create_tmp()) / "constraint.txt"
    constraint.write_text(f"torch=={version}\n")
    session.env.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
    session.install("pip>=25.3")
    session.install(TORCH)
    session.run(
        "pip", "install", "--force-reinstall", "--no-deps", "--build-constraint", str(constraint), f"./packages/{package}"
    )
    session.run("python", "tests/packaging/alone.py", package)


@nox.session
@per_package(FAMILIES)
def sanitize(session: nox.Session, package: str) -> None:
    """Test the native code, emulated CUDA included, under the address and undefined-behaviour sanitizers."""
    session.env["RNNKIT_SANITIZE"] = "1"
    session.env["RNNKIT_CUDA"] = "0"
    install(session, "common", package, extras=group("test"))
    runtimes = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    session.run(
        "python",
        "-m",
        "pytest",
        f"tests/{package}",
        "-m",
        "kernels",
        "-n",
        "auto",
        *session.posargs,
        env={
            "LD_PRELOAD": ":".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # CPython and torch keep memory until they end
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    )


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU, with the packages installed in the environment that nox runs in."""
    session.run(sys.executable, "-m", "pytest", "-m", "gpu", *session.posargs)


@nox.session
@per_package(FAMILIES)
def bench(session: nox.Session, package: str) -> None:
    """Measure one package beside its peers; results and plots go to benchmarks/results."""
    install(session, "common", package, extras=group("bench"))
    session.run("python", f"benchmarks/bench_{package}.py", *session.posargs)


@nox.session
@per_package(PACKAGES)
def release(session: nox.Session, package: str) -> None:
    """Check that a package can be released and build its source distribution; prints the tag to set."""
    project = nox.project.load_toml(f"packages/{package}/pyproject.toml")["project"]
    version = project["version"]
    changelog = (ROOT / "packages" / package / "CHANGELOG.md").read_text()
    if f"## {version}" not in changelog:
        session.error(f"packages/{package}/CHANGELOG.md has no entry for {version}")
    if subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout:
        session.error("the working tree has changes")
    session.install("build", "twine", TORCH, "setuptools>=77", "ninja")
    session.run("python", "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", f"packages/{package}")
    (sdist,) = (ROOT / "dist").glob(f"{project['name'].replace('-', '_')}-{version}.tar.gz")
    session.run("twine", "check", str(sdist))
    session.log(f"git tag -a {package}-v{version} -m '{project['name']} {version}'")


@nox.session(venv_backend="none", default=False)
def clean(session: nox.Session) -> None:
    """Delete what the other sessions built."""
    for pattern in ("build", "dist", "packages/*/build", "packages/*/src/*.egg-info"):
        for path in ROOT.glob(pattern):
            shutil.rmtree(path)
