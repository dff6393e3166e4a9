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

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
FAMILIES = [name for name in PACKAGES if (ROOT / "packages" / name / "setup.py").exists()]
SUITES = [*PACKAGES, "packaging"]
BENCHMARKS = [*FAMILIES, "scaling", "processes"]
GROUPS = nox.project.load_toml("pyproject.toml")
TORCH = os.environ.get("RNNKIT_TORCH", "torch==2.13.0")

# CUDA version -> the toolkit on PyPI that builds for it; None: PyPI has no nvcc, the toolkit is taken from CUDA_HOME.
_TOOLKIT = "cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]=={}"
CUDA = {
    "cpu": None,
    "cu126": None,
    "cu128": None,
    "cu129": None,
    "cu130": _TOOLKIT.format("13.0.2"),
    "cu131": _TOOLKIT.format("13.1.1"),
    "cu132": _TOOLKIT.format("13.2.2"),
    "cu133": _TOOLKIT.format("13.3.1"),
    "cu134": _TOOLKIT.format("13.4.3"),
    "cu135": _TOOLKIT.format("13.5.0"),
}

# What the promise "any Python >= 3.10, any torch >= 2.11" is tried on. PyPI's torch is the CUDA build; another index or
# folder (PIP_FIND_LINKS) may give the CPU-only one: the same wheel has to work with both.
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
TORCHES = {"2.11": "torch==2.11.0", "2.13": "torch==2.13.0", "newest": "torch"}
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

nox.options.sessions = [
    "lint",
    "typecheck",
    "tests",
    *(f"build({family}, cu130)" for family in FAMILIES),
    "audit",
    "install_alone",
    *([f"matrix-{HERE}(2.13)"] if HERE in PYTHONS else []),  # a slice: the rest downloads gigabytes
]


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
        session.install("nox", *group("demo"))
    parallel = [] if package == "packaging" else ["-n", "auto"]  # its tests share what they build
    session.run("python", "-m", "pytest", f"tests/{package}", *parallel, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and spelling (`-- --fix` mends what can be mended)."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    native = [
        str(p)
        for suffix in ("h", "cpp", "cu")
        for p in sorted(ROOT.glob(f"*/**/*.{suffix}"))
        if not {"build", "peers", ".nox"} & set(p.parts)
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
    """Check the wheels in dist/: the ABI they ask for, their tags, metadata, contents and size."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if not wheels:
        session.skip("dist/ has no wheels: run `nox -s build` first")
    session.install(TORCH, *group("audit"))
    for wheel in wheels:
        unpacked = Path(session.create_tmp()) / wheel.stem
        session.run("python", "-m", "zipfile", "-e", str(wheel), str(unpacked))
        session.run("torch-abi-audit", "--check", "both", *map(str, unpacked.glob("*/*.so")))
    session.run("abi3audit", "--strict", *map(str, wheels))
    session.run("twine", "check", *map(str, wheels))
    session.run("python", "tests/packaging/contents.py", *map(str, wheels))


@nox.session(python=PYTHONS, reuse_venv=False)
@nox.parametrize("torch", [nox.param(name, id=name) for name in TORCHES])
def matrix(session: nox.Session, torch: str) -> None:
    """Install the wheels in dist/, the same files everywhere, under one Python and one torch, and test them."""
    wheels = [_newest_wheel(family) for family in FAMILIES]
    if None in wheels:
        session.skip("dist/ has not a wheel of each package: run `nox -s build` first")
    session.install(TORCHES[torch], *group("test"))
    session.install("--no-deps", "./packages/common", *map(str, wheels))
    code = "import torch; print('torch', torch.__version__, 'CUDA build' if torch.version.cuda else 'CPU only')"
    session.run("python", "-c", code)
    folders = [f"tests/{family}" for family in FAMILIES]
    # the emulated kernels are compiled by the tests: they say nothing of the wheel
    session.run("python", "-m", "pytest", *folders, "-n", "auto", "-q", "-k", "not emulated", *session.posargs)
    shutil.rmtree(session.virtualenv.location)  # several gigabytes


def _newest_wheel(family: str) -> Path | None:
    """The newest wheel of a package in dist/ that has CUDA kernels; without any, the newest."""
    found = (ROOT / "dist").glob(f"rnnkit_{family}-*.whl")
    return max(found, key=lambda wheel: ("+cu" in wheel.name, wheel.stat().st_mtime), default=None)


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
def bench(session: nox.Session) -> None:
    """Measure all packages beside peers and limits, CPU and GPU: `-- [NAME ...] [--quick] [--device cuda]`, as `-- mingru scaling`."""
    names = [argument for argument in session.posargs if argument in BENCHMARKS] or BENCHMARKS
    options = [argument for argument in session.posargs if argument not in BENCHMARKS]
    alone = set(names) <= set(FAMILIES)
    install(session, "common", *(names if alone else FAMILIES), extras=group("bench"))
    for name in names:
        session.run("python", f"benchmarks/bench_{name}.py", *options)


@nox.session
@per_package(PACKAGES)
def release(session: nox.Session, package: str) -> None:
    """Check that a package can be released and build its source distribution; prints the tag to set."""
    project = nox.project.load_toml(f"packages/{package}/pyproject.toml")["project"]
    version, tag = project["version"], f"{package}-v{project['version']}"
    folder = ROOT / "packages" / package
    if f"## {version}" not in (folder / "CHANGELOG.md").read_text():
        session.error(f"packages/{package}/CHANGELOG.md has no entry for {version}")
    (init,) = folder.glob("src/*/__init__.py")
    if f'__version__ = "{version}"' not in init.read_text():
        session.error(f"{init.relative_to(ROOT)} has another version than pyproject.toml, {version}")
    if _git("status", "--porcelain"):
        session.error("the working tree has changes")
    if _git("tag", "--list", tag) and _git("rev-parse", f"{tag}^{{commit}}") != _git("rev-parse", "HEAD"):
        session.error(f"{tag} is the tag of another commit: this version is released, choose the next one")
    session.install("build", "twine", TORCH, "setuptools>=77", "ninja")
    session.run("python", "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", f"packages/{package}")
    (sdist,) = (ROOT / "dist").glob(f"{project['name'].replace('-', '_')}-{version}.tar.gz")
    session.run("twine", "check", str(sdist))
    session.log(f"git tag -a {tag} -m '{project['name']} {version}'")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@nox.session(venv_backend="none", default=False)
def clean(session: nox.Session) -> None:
    """Delete what the other sessions built."""
    for pattern in ("build", "dist", "packages/*/build", "packages/*/src/*.egg-info"):
        for path in ROOT.glob(pattern):
            shutil.rmtree(path)
