# /// script
# dependencies = ["nox>=2025.2.9"]
# ///
"""Everything that is done with this repository: `nox -l` lists it, `nox -s NAME` does it, `nox -s NAME -- ARGUMENTS` passes on.

Torch takes half a minute to install, so sessions share environments, in .nox; and one wheel of each family, in dist: it is
built once, and every session tests that file. CONTRIBUTING.md has a table of the environment variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
FAMILIES = [name for name in PACKAGES if (ROOT / "packages" / name / "setup.py").exists()]
SUITES = [*PACKAGES, "examples", "packaging", "benchmarks", "mutants"]
BENCHMARKS = [*FAMILIES, "scaling", "processes", "calls"]
GROUPS = nox.project.load_toml("pyproject.toml")
TORCH = os.environ.get("RNNKIT_TORCH", "torch==2.13.0")
BUILD = [TORCH, "setuptools>=77", "wheel", "ninja"]
GLIBC = "2.28"  # of released wheels, as of torch's own

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

nox.options.sessions = [
    "lint",
    "typecheck",
    "headers",
    "wheels",
    "audit",
    "sass",
    "tests",
    "docs",
    "install_alone",
    "sanitize",
]


def per_package(names: list[str], **tags: list[str]) -> Callable[..., object]:
    return nox.parametrize("package", [nox.param(name, id=name, tags=tags.get(name)) for name in names])


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(GROUPS, name)


class Environment:
    """A virtual environment that sessions share."""

    _present: ClassVar[set[tuple[str, ...]]] = set()  # what this run of nox has installed already

    def __init__(self, session: nox.Session, name: str, *requirements: str) -> None:
        self.session, self.folder = session, ROOT / ".nox" / name
        self.bin = self.folder / ("Scripts" if os.name == "nt" else "bin")
        if not self.bin.exists():
            self.run_outside("-m", "venv", str(self.folder))
        self.variables = {"PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]]), "VIRTUAL_ENV": str(self.folder)}
        if requirements and (name, *requirements) not in self._present:
            self.install(*requirements)
            self._present.add((name, *requirements))

    @property
    def site_packages(self) -> Path:
        (found,) = (
            [self.folder / "Lib" / "site-packages"] if os.name == "nt" else self.folder.glob("lib/python*/site-packages")
        )
        return found

    def run_outside(self, *arguments: str) -> None:
        self.session.run(sys.executable, *arguments, external=True)

    def python(self, *arguments: str, folder: Path = ROOT, **variables: str) -> None:
        with self.session.chdir(folder):
            self.session.run(str(self.bin / "python"), *arguments, env={**self.variables, **variables}, external=True)

    def output(self, *arguments: str) -> str:
        return str(
            self.session.run(str(self.bin / "python"), *arguments, env=self.variables, external=True, silent=True)
        ).strip()

    def tool(self, name: str, *arguments: str) -> None:
        self.session.run(str(self.bin / name), *arguments, env=self.variables, external=True)

    def install(self, *arguments: str, **variables: str) -> None:
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments, **variables)

    def has_only(self, *families: str) -> None:
        """Of this repository, installs common and the wheels of some families; no other stays."""
        others = [f"rnnkit-{name.replace('_', '-')}" for name in FAMILIES if name not in families]
        if others:
            self.python("-m", "pip", "uninstall", "--quiet", "--yes", "--disable-pip-version-check", *others)
        wheels = [str(wheel(self.session, family)) for family in families]
        self.install("--no-deps", "--force-reinstall", "./packages/common", *wheels)


def wheel(session: nox.Session, family: str) -> Path:
    """The wheel in dist/ that was built of these very sources; if there is none, it is built with what this machine has."""
    records = json.loads(_records().read_text()) if _records().exists() else {}
    current = [DIST / name for name, sources in records.items() if sources == _digest(family) and (DIST / name).exists()]
    if current:
        return max(current, key=lambda path: (path in _with_cuda(), path.stat().st_mtime))
    environment = Environment(session, "torch", *BUILD)
    code = "import torch as t; print(f'{t.version.cuda} %d.%d' % t.cuda.get_device_capability() if t.cuda.is_available() else '')"
    version, _, capability = environment.output("-c", code).partition(" ")
    if capability and "CUDA_HOME" not in os.environ and shutil.which("nvcc") is None:
        environment.install(CUDA[f"cu{version.replace('.', '')}"] or "cuda-toolkit[nvcc]")  # for the GPU that is there
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", capability or "9.0")
    session.log(f"compiling {family}: one to four minutes on two cores")
    return _keep(family, *_build(environment, family, TORCH_CUDA_ARCH_LIST=architectures))


def _build(environment: Environment, family: str, isolated: bool = False, **variables: str) -> tuple[Path, str]:
    """A folder with a new wheel, and the digest of what it is built of. Several may be built at the same time.

    Of one commit, in one place, it is the same bytes each time.
    """
    digest = _digest(family)
    fresh = ROOT / "build" / "wheel" / family
    shutil.rmtree(fresh, ignore_errors=True)
    pip = [environment.bin / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", fresh, f"./packages/{family}"]
    if isolated:
        constraint = ROOT / "build" / "constraint.txt"
        constraint.parent.mkdir(exist_ok=True)
        constraint.write_text(re.sub(r"\[.*?\]", "", TORCH) + "\n")  # a constraint has no extras
        pip += ["--build-constraint", constraint]
    else:
        pip.append("--no-build-isolation")
    if (ROOT / ".git").exists():
        variables["SOURCE_DATE_EPOCH"] = _git("log", "-1", "--format=%ct")
    environ = {**os.environ, **environment.variables, **variables}
    subprocess.run(pip, cwd=ROOT, env=environ, check=True)
    if glibc := variables.get("RNNKIT_GLIBC"):
        (made,) = fresh.glob("*.whl")
        tag = f"manylinux_{glibc.replace('.', '_')}_{made.stem.rpartition('linux_')[2]}"
        outside = ["--exclude", "libtorch*", "--exclude", "libc10*"]  # torch brings them
        # gives the wheel its tag, and refuses where the library asks for more
        repair = ["auditwheel", "repair", "--plat", tag, "--only-plat", *outside, "-w", fresh, made]
        subprocess.run(repair, cwd=ROOT, env=environ, check=True)
        made.unlink()
    return fresh, digest


def _with_cuda() -> list[Path]:
    """The wheels in dist/ for release with CUDA kernels; CUDA 13.0's have no local version, because an index takes none."""
    return [path for path in sorted(DIST.glob("*-manylinux_*.whl")) if "+cpu" not in path.name]


def _keep(family: str, fresh: Path, digest: str) -> Path:
    """Moves a new wheel into dist/, notes what it was built of, and deletes those of the family that were built of other sources."""
    (made,) = fresh.glob("*.whl")
    DIST.mkdir(exist_ok=True)
    records = json.loads(_records().read_text()) if _records().exists() else {}
    for name in [name for name, sources in records.items() if name.startswith(f"rnnkit_{family}-") and sources != digest]:
        del records[name]
        (DIST / name).unlink(missing_ok=True)
    _records().write_text(json.dumps({**records, made.name: digest}, indent=1) + "\n")
    return Path(shutil.move(made, DIST / made.name))


def _records() -> Path:
    return DIST / "sources.json"  # wheel -> digest of what it was built of


def _digest(family: str) -> str:
    package, common = ROOT / "packages" / family, ROOT / "packages" / "common" / "src" / "rnnkit_common"
    folders = [package / "csrc", package / "src", common / "include"]
    files = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".py", ".typed")
    ]
    files += [common / "build.py", *(package / name for name in ("setup.py", "pyproject.toml", "README.md"))]
    parts = [f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() for path in sorted(files)]
    parts += [os.environ.get(name, "").encode() for name in ("RNNKIT_CUDA", "RNNKIT_QUICK", "RNNKIT_SANITIZE")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train a minGRU to copy selectively, on the GPU or the CPU that is there, and show what was won."""
    session.log("installing torch (half a minute), then mingru")
    environment = Environment(session, "torch", *BUILD, *group("demo"))
    environment.install("--no-deps", str(wheel(session, "mingru")))
    environment.python("packages/mingru/examples/selective_copying.py", *session.posargs)


@nox.session(venv_backend="none")
@per_package(SUITES)
def tests(session: nox.Session, package: str) -> None:
    """Test one package with nothing else of this repository but common: CPU, emulated CUDA, and CUDA where there is one."""
    environment = Environment(session, "torch", *BUILD, *group("test"))
    environment.has_only(*(FAMILIES if package == "examples" else [package] if package in FAMILIES else []))
    if package == "examples":
        environment.install(*group("demo"), *group("examples"))
        # SpeechBrain imports torchaudio, whose extension wants CUDA's libraries, which a CPU-only torch has not; no test needs it
        environment.install("--no-deps", "speechbrain", "torchaudio")
        (environment.site_packages / "torchaudio" / "lib" / "_torchaudio.so").unlink(missing_ok=True)
    if package in ("packaging", "benchmarks"):
        environment.install("nox", *group("demo"), *group("sass"))
    if package == "packaging":
        for family in FAMILIES:
            wheel(session, family)
    environment.python("-m", "pytest", f"tests/{package}", "-n", "auto", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/docs, no warning allowed; its code is run by `tests(examples)`."""
    environment = Environment(session, "torch", *BUILD, *group("docs"))
    environment.has_only(*FAMILIES)
    shutil.rmtree(ROOT / "build" / "docs", ignore_errors=True)  # of what was read before, nothing would be said again
    environment.python(
        "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs", ".", "build/docs", *session.posargs
    )
    session.log("open build/docs/index.html")


@nox.session(venv_backend="none")
@nox.parametrize("name", [nox.param(name, id=name) for name in re.findall(r"new\((\w+)\)", " ".join(sys.argv)) or ["NAME"]])
def new(session: nox.Session, name: str) -> None:
    """Make a family of scans, packages/NAME and tests/NAME, which builds and passes: `nox -s "new(NAME)"`."""
    session.run(sys.executable, "examples/new.py", name, external=True)


@nox.session(venv_backend="none")
@per_package(FAMILIES, mingru=["quick"])
def quick(session: nox.Session, package: str) -> None:
    """Compile one package's CPU kernels in place, hardly optimised, and run its fast tests: after an edit, within a minute."""
    environment = _editable(session, package)
    chosen = ["-m", "not slow", "-k", "not emulated", "-n", "auto", "-q"]
    environment.python("-m", "pytest", f"tests/{package}", *chosen, *session.posargs)


@nox.session(venv_backend="none")
@per_package(FAMILIES)
def dev(session: nox.Session, package: str) -> None:
    """Make an environment in which the sources of one package are used as they stand, and compile_commands.json for editors."""
    environment = _editable(session, package)
    commands = subprocess.run(
        [environment.bin / "ninja", "-C", _objects(package), "-t", "compdb"], capture_output=True, text=True, check=True
    )
    (ROOT / "compile_commands.json").write_text(commands.stdout)
    session.log(f"environment: source {environment.bin.relative_to(ROOT)}/activate; Python sources are used as they stand")
    session.log(f'after an edit of native code: nox -s "quick({package})" compiles it and runs the fast tests')


def _objects(package: str) -> Path:
    return ROOT / "packages" / package / "build" / "quick"


def _editable(session: nox.Session, package: str) -> Environment:
    environment = Environment(session, "dev", *BUILD, *group("test"))
    sources = [f"packages/{name}/src" for name in PACKAGES]
    (environment.site_packages / "rnnkit.pth").write_text("".join(f"{ROOT / path}\n" for path in sources))
    compile_in_place = ["setup.py", "-q", "build_ext", "--inplace", "--build-temp", str(_objects(package))]
    environment.python(*compile_in_place, folder=ROOT / "packages" / package, RNNKIT_QUICK="1")
    return environment


@nox.session(tags=["quick"])
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


@nox.session(venv_backend="none", tags=["quick"])
def typecheck(session: nox.Session) -> None:
    """Check types, strictly."""
    environment = Environment(session, "torch", TORCH, "pytest", *group("typecheck"))
    sources = [f"packages/{package}/src" for package in PACKAGES]
    environment.python("-m", "mypy", *sources, MYPYPATH=os.pathsep.join(sources))


@nox.session(venv_backend="none")
def headers(session: nox.Session) -> None:
    """Compile every native header by itself, with clang-tidy's checks; or the headers named."""
    environment = Environment(session, "torch", TORCH, *group("headers"))
    environment.python("tests/packaging/headers.py", *session.posargs)


@nox.session(venv_backend="none", tags=["wheels"])
@nox.parametrize("cuda", [nox.param(name, id=name) for name in CUDA])
@per_package(FAMILIES)
def build(session: nox.Session, package: str, cuda: str) -> None:
    """Build one package's wheel for one CUDA version into dist/: for every Python >= 3.10 and every torch >= 2.11."""
    environment, variables = _toolchain(session, cuda)
    _keep(package, *_build(environment, package, **variables))


@nox.session(venv_backend="none")
def wheels(session: nox.Session) -> None:
    """Build all packages' wheels for CUDA 13.0, one on each core; ligru's, the cheapest, in isolation, as a user's pip does."""
    environment, variables = _toolchain(session, "cu130")
    environment.install("pip>=25.3")  # for --build-constraint
    variables["MAX_JOBS"] = "1"
    session.log(f"compiling {', '.join(FAMILIES)}: some ten minutes on two cores")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        slow_first = sorted(FAMILIES, key=lambda family: family not in ("sru", "qrnn"))
        made = {family: pool.submit(_build, environment, family, family == "ligru", **variables) for family in slow_first}
    failed = [family for family, build in made.items() if build.exception() is not None]
    for family in made.keys() - failed:
        _keep(family, *made[family].result())
    if failed:
        session.error(f"not built: {', '.join(failed)}")


def _toolchain(session: nox.Session, cuda: str) -> tuple[Environment, dict[str, str]]:
    """An environment that can build for one CUDA version, and the variables that tell it to."""
    environment = Environment(session, "torch", *BUILD, *group("repair"))
    architectures = os.environ.get("TORCH_CUDA_ARCH_LIST", "all")
    local = "" if cuda == "cu130" else cuda  # PyPI takes none, and PyPI's torch is that of CUDA 13.0
    variables = {"RNNKIT_LOCAL_VERSION": local, "TORCH_CUDA_ARCH_LIST": architectures}
    if sys.platform == "linux":
        variables["RNNKIT_GLIBC"] = GLIBC
    if cuda == "cpu":
        variables["RNNKIT_CUDA"] = "0"
    elif CUDA[cuda] is not None:
        folder = ROOT / ".nox" / f"toolkit-{cuda}"  # of its own: torch may have brought parts of another version
        if not folder.exists():
            environment.install("--target", str(folder), CUDA[cuda])
        (home,) = folder.glob("nvidia/cu[0-9]*")
        variables["CUDA_HOME"] = str(home)
    else:
        _require_toolkit(session, cuda)
    return environment, variables


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


@nox.session(venv_backend="none", tags=["wheels"])
def audit(session: nox.Session) -> None:
    """Check the wheels in dist/: the ABI they ask for, their tags, metadata, contents and size."""
    wheels = sorted(DIST.glob("*.whl"))
    if not wheels:
        session.skip("dist/ has no wheels: run `nox -s build` first")
    environment = Environment(session, "torch", TORCH, *group("audit"))
    for path in wheels:
        unpacked = Path(session.create_tmp()) / path.stem
        environment.python("-m", "zipfile", "-e", str(path), str(unpacked))
        environment.tool("torch-abi-audit", "--check", "both", *map(str, unpacked.glob("*/*.so")))
    environment.tool("abi3audit", "--strict", *map(str, wheels))
    environment.tool("twine", "check", *map(str, wheels))
    environment.python("tests/packaging/contents.py", *map(str, wheels))


@nox.session(venv_backend="none", tags=["wheels"])
def page(session: nox.Session) -> None:
    """Write dist/index.html, which pip takes with --find-links: the wheels that are there, with their digests."""
    lines = [
        f'<a href="{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" data-requires-python="&gt;=3.10">{path.name}</a><br>'
        for path in sorted(DIST.glob("*-manylinux_*.whl"))
    ]
    (DIST / "index.html").write_text("<!DOCTYPE html>\n<title>rnnkit wheels</title>\n" + "\n".join(lines) + "\n")
    session.log(f"{len(lines)} wheels, for pip install --find-links {DIST / 'index.html'}")


@nox.session(venv_backend="none", tags=["wheels"])
def sass(session: nox.Session) -> None:
    """Count the instructions, registers and spills of every kernel in dist/'s wheels: `-- FILE ... [--kernel WORD --steady]`."""
    environment = Environment(session, "torch", *group("sass"))
    files = session.posargs or [str(path) for path in _with_cuda()]
    environment.python("benchmarks/sass.py", *files)


@nox.session(python=PYTHONS, reuse_venv=False)
@nox.parametrize("torch", [nox.param(name, id=name) for name in TORCHES])
def matrix(session: nox.Session, torch: str) -> None:
    """Install the wheels in dist/, the same files everywhere, under one Python and one torch, and test them."""
    session.install(TORCHES[torch], *group("test"))
    session.install("--no-deps", "./packages/common", *(str(wheel(session, family)) for family in FAMILIES))
    code = "import torch; print('torch', torch.__version__, 'CUDA build' if torch.version.cuda else 'CPU only')"
    session.run("python", "-c", code)
    folders = [f"tests/{family}" for family in FAMILIES]
    # the emulated kernels are compiled by the tests: they say nothing of the wheel
    session.run("python", "-m", "pytest", *folders, "-n", "auto", "-q", "-k", "not emulated", *session.posargs)
    shutil.rmtree(session.virtualenv.location)  # several gigabytes


@nox.session(venv_backend="none")
@per_package(FAMILIES)
def install_alone(session: nox.Session, package: str) -> None:
    """Install one package's wheel beside torch and nothing else, and run it."""
    environment = Environment(session, "alone", TORCH)
    environment.install("--no-deps", "--force-reinstall", str(wheel(session, package)))
    environment.python("tests/packaging/alone.py", package)
    environment.python("-m", "pip", "uninstall", "--quiet", "--yes", f"rnnkit-{package.replace('_', '-')}")


@nox.session(venv_backend="none")
def sanitize(session: nox.Session) -> None:
    """Run a choice of every family's kernel tests under the address and undefined-behaviour sanitizers; `-- -m kernels`: all."""
    environment = Environment(session, "torch", *BUILD, *group("test"))
    environment.has_only()
    environment.python("tests/packaging/sanitized.py", *(session.posargs or ["-m", "sanitized"]))


@nox.session(venv_backend="none", default=False)
@nox.parametrize("platform", [nox.param(name, id=name) for name in ("aarch64", "macos")])
def cross(session: nox.Session, platform: str) -> None:
    """Build wheels for another platform: `-- FAMILY ...` (mingru); and test aarch64's under qemu (tests/packaging/cross.py)."""
    environment = Environment(session, "torch", *BUILD, *group("cross"))
    environment.python("tests/packaging/cross.py", platform, *(session.posargs or ["mingru"]))


@nox.session(venv_backend="none", default=False)
def clang(session: nox.Session) -> None:
    """Build one package, `-- FAMILY` (sru), with the clang++ on PATH, or CXX, no warning allowed, and test it."""
    compiler = os.environ.get("CXX", "clang++")
    if shutil.which(compiler) is None:
        session.error(f"there is no {compiler} on PATH: CXX names another")
    (family,) = session.posargs or ["sru"]
    environment = Environment(session, "clang", *BUILD, *group("test"))
    made, _ = _build(
        environment, family, CXX=compiler, CC=compiler.replace("++", ""), RNNKIT_CUDA="0", CXXFLAGS="-Wall -Werror"
    )
    environment.install("--no-deps", "--force-reinstall", "./packages/common", *map(str, made.glob("*.whl")))
    # torch.compile takes CXX too, which may lack an OpenMP
    environment.python("-m", "pytest", f"tests/{family}", "-n", "auto", "-q", "-k", "not emulated", CXX="g++")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU, with the packages installed in the environment that nox runs in."""
    session.run(sys.executable, "-m", "pytest", "-m", "gpu", *session.posargs)


@nox.session(venv_backend="none")
def mutants(session: nox.Session) -> None:
    """Plant faults in the sources, one at a time, and tell which the tests find: hours (`-- -k WORD`: some of them)."""
    environment = Environment(session, "torch", *BUILD, *group("test"))
    environment.has_only()
    environment.python("tests/mutants/run.py", *session.posargs)


@nox.session(venv_backend="none")
def upstream(session: nox.Session) -> None:
    """Run the tests of the packages that ours replace, with ours in their place: `-- FOLDER [SUITE ...] [--fetch]`."""
    environment = Environment(session, "torch", *BUILD, *group("test"))
    environment.has_only(*FAMILIES)
    environment.install("parameterized")  # for torchaudio's
    environment.python("tests/upstream/run.py", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure all packages beside peers and limits, CPU and GPU: `-- [NAME ...] [--quick] [--device cuda]`, as `-- mingru scaling`."""
    names = [argument for argument in session.posargs if argument in BENCHMARKS] or BENCHMARKS
    options = [argument for argument in session.posargs if argument not in BENCHMARKS]
    environment = Environment(session, "torch", *BUILD, *group("bench"))
    environment.has_only(*(names if set(names) <= set(FAMILIES) else FAMILIES))
    for name in names:
        environment.python(f"benchmarks/bench_{name}.py", *options)


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
    (sdist,) = DIST.glob(f"{project['name'].replace('-', '_')}-{version}.tar.gz")
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
