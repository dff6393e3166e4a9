"""What is true of every package: its files, its wheel, and that it works with nothing but torch."""

from __future__ import annotations

import ctypes
import email.parser
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rnnkit_common import build, manylinux

from . import baseline, contents

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
FAMILIES = [path for path in PACKAGES if (path / "setup.py").exists()]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("packages/*/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("tests/*/*.md"),
    ]
)


def test_every_setup_py_is_the_same() -> None:
    assert len({(package / "setup.py").read_text() for package in FAMILIES}) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_a_package_has_its_papers(package: Path) -> None:
    project = (package / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.+)"', project, re.M)
    (init,) = package.glob("src/*/__init__.py")
    assert f'__version__ = "{version}"' in init.read_text()
    assert f"## {version}" in (package / "CHANGELOG.md").read_text()
    assert (package / "README.md").read_text().startswith("# ")
    assert (package / "LICENSE").samefile(ROOT / "LICENSE")
    assert (init.parent / "py.typed").exists()
    assert (ROOT / "tests" / package.name).is_dir()
    assert f"packages/{package.name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("package", FAMILIES, ids=lambda p: p.name)
def test_links_lead_to_common_and_each_is_used(package: Path) -> None:
    (init,) = package.glob("src/*/__init__.py")
    sources = [path.read_text() for path in init.parent.glob("*.py")]
    links = [path for path in init.parent.glob("*") if path.is_symlink()]
    assert {"_checks.py", "_modes.py", "_names.py", "_tensors.py"} <= {path.name for path in links}
    for path in links:
        assert path.readlink() == Path("../../../common/src/rnnkit_common") / path.name.removeprefix("_")
        assert any(f"from .{path.stem} import" in source for source in sources), path.name


def test_a_checkout_without_symbolic_links_says_so(tmp_path: Path) -> None:
    sources = tmp_path / "src" / "toy"
    sources.mkdir(parents=True)
    (sources / "__init__.py").touch()
    (sources / "_checks.py").write_text("../../../common/src/rnnkit_common/checks.py")
    with pytest.raises(RuntimeError, match="no symbolic links"):
        build.extension_arguments(str(tmp_path / "setup.py"))


def test_nox_knows_every_package() -> None:
    listed = subprocess.run([sys.executable, "-m", "nox", "-l"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for package in PACKAGES:
        assert f"tests({package.name})" in listed
    for family in FAMILIES:
        assert f"build({family.name}, cu130)" in listed
        assert f"quick({family.name})" in listed
        assert (ROOT / "benchmarks" / f"bench_{family.name}.py").exists()


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda p: p.name)
def wheel(request: pytest.FixtureRequest) -> Path:
    """The newest of dist/, which `nox` builds of these sources; with the CUDA kernels, if there is one."""
    wheels = (ROOT / "dist").glob(f"rnnkit_{request.param.name}-*.whl")
    newest = max(wheels, key=lambda path: (contents.has_cuda(path), path.stat().st_mtime), default=None)
    assert newest is not None, f"dist/ has no wheel of {request.param.name}: nox -s 'tests(packaging)' builds it"
    return newest


def test_wheel_needs_torch_alone(wheel: Path) -> None:
    assert re.fullmatch(r"rnnkit_\w+-[\d.]+(\+\w+)?-cp310-abi3-(many)?linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        headers = email.parser.Parser().parsestr(archive.read(metadata).decode())
    assert headers.get_all("Requires-Dist") == ["torch>=2.11"]
    assert headers["Requires-Python"] == ">=3.10"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_audit_of_contents(wheel: Path, tmp_path: Path) -> None:
    """The table that `nox -s audit` prints; and a wheel with a stray file, or one that claims too old a glibc, is refused."""
    size, tag = contents.check(wheel)
    assert size > 100_000
    assert re.fullmatch(r"manylinux_2_\d+", tag)
    stray = shutil.copy(wheel, tmp_path / wheel.name)
    with zipfile.ZipFile(stray, "a") as archive:
        archive.writestr("rnnkit_common/build.py", "")
    with pytest.raises(AssertionError, match="belong to no package of this name"):
        contents.check(stray)
    too_old = shutil.copy(wheel, tmp_path / re.sub(r"-(linux|manylinux_2_28)_", "-manylinux_2_5_", wheel.name))
    with pytest.raises(AssertionError, match="needs glibc"):
        contents.check(too_old)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_library_loads_on_any_torch(wheel: Path, tmp_path: Path) -> None:
    """It asks for libraries that CPU-only torch has too, and for no symbol of CPython beyond the limited API."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".abi3.so"))
        library = archive.extract(name, tmp_path)
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(.+?)\]", dynamic))
    system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert "libtorch.so" in needed
    assert needed - system <= {"libtorch.so", "libtorch_cpu.so", "libc10.so"}
    symbols = subprocess.run(["readelf", "-Ws", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"UND (Py\w+|_Py\w+)", symbols)) <= contents.PYTHON
    weak = re.findall(r"(\w+)\s+DEFAULT\s+UND aoti_torch_get_current_cuda_stream", symbols)
    assert set(weak) == ({"WEAK"} if contents.has_cuda(wheel) else set())


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("objdump") is None, reason="no objdump, or no x86-64")
def test_an_instruction_outside_of_its_target_is_found(tmp_path: Path) -> None:
    """As where the compiler emits a function of a shared header while it compiles for AVX-512."""
    source, library = tmp_path / "toy.cpp", tmp_path / "toy.so"

    def found(**targets: str) -> set[str]:
        functions = [
            f'namespace {name} {{ __attribute__((target("{isa}"))) void f(float* x) {{ for (int i = 0; i < 64; ++i) x[i] *= 2; }} }}'
            for name, isa in targets.items()
        ]
        source.write_text("namespace toy {\n" + "\n".join(functions) + "\n}\n")
        command = ["c++", "-O3", "-mprefer-vector-width=512", "-fPIC", "-shared", source, "-o", library]
        subprocess.run(command, check=True)
        return set(baseline.misplaced(library))

    assert found(avx512="avx512f", avx2="avx2", baseline="sse2") == set()
    assert found(avx512="avx512f", avx2="avx512f", baseline="avx2") == {"toy::avx2::f(float*)", "toy::baseline::f(float*)"}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_a_library_can_be_linked_for_an_older_system(tmp_path: Path) -> None:
    """exp got a new version in glibc 2.29, threads moved in 2.34; what libstdc++ has since GCC 9 is linked statically."""
    source, library = tmp_path / "toy.cpp", tmp_path / "toy.so"
    source.write_text("""
        #include <cmath>
        #include <memory>
        #include <pthread.h>
        #include <string>
        extern "C" double toy(double x, int n) {
          pthread_t self = pthread_self();
          pthread_join(self, nullptr);
          const std::shared_ptr<std::string[]> words(new std::string[n]);
          const auto shared = words;
          return std::exp(x) + shared[0].size();
        }
    """)
    manylinux.make_stand_ins("2.28", ["c++"], tmp_path / "stand-ins")
    flags = ["-fPIC", "-shared", f"-L{tmp_path / 'stand-ins'}", "-lstdc++"]
    subprocess.run(["c++", source, "-o", library, *flags, "-lpthread"], check=True)
    symbols = subprocess.run(["readelf", "-W", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
    versions = {tuple(map(int, version.split("."))) for version in re.findall(r"@GLIBC_([\d.]+)", symbols)}
    assert max(versions) <= (2, 28)
    assert not re.search(r" UND \w*(__libc_single_threaded|__throw_bad_array_new_length)\w*$", symbols, re.M)
    toy = ctypes.CDLL(str(library)).toy
    toy.argtypes, toy.restype = [ctypes.c_double, ctypes.c_int], ctypes.c_double
    assert toy(1.0, 3) == pytest.approx(math.e)


def test_installed_package_works_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    family = wheel.name.split("-")[0].removeprefix("rnnkit_")
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/nonexistent", "HOME": str(tmp_path)}
    script = str(Path(__file__).parent / "alone.py")
    result = subprocess.run([sys.executable, script, family], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "site") in result.stdout

    # upstream's distribution of the same import name, in the same folder
    (tmp_path / "site" / f"{family}-1.2.3.dist-info").mkdir()
    (tmp_path / "site" / f"{family}-1.2.3.dist-info" / "METADATA").write_text(f"Name: {family}\nVersion: 1.2.3\n")
    result = subprocess.run([sys.executable, script, family], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0
    assert f"ImportError: {family} 1.2.3 and rnnkit-{family} are both installed" in result.stderr
    assert f"pip uninstall -y {family} rnnkit-{family}" in result.stderr


def test_without_nvcc_the_build_says_so(tmp_path: Path) -> None:
    code = (
        "import sys; from rnnkit_common.build import extension_arguments as f;"
        "print([s for s in f(sys.argv[1])['ext_modules'][0].sources if s.endswith('.cu')])"
    )
    command = [sys.executable, "-c", code, str(FAMILIES[0] / "setup.py")]
    environment = {**os.environ, "RNNKIT_CUDA": "0"}
    result = subprocess.run(command, env=environment, cwd=FAMILIES[0], capture_output=True, text=True, check=True)
    assert "gets its CPU kernels only" in result.stdout
    assert result.stdout.endswith("[]\n")


def test_a_wrong_cuda_home_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("RNNKIT_CUDA", raising=False)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        build.find_cuda()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_are_wrapped(document: Path) -> None:
    """Tables, pictures, code and formulas aside."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.S).splitlines()
    long = [line for line in prose if len(line) > 120 and not line.startswith(("|", "!", "    ", "<!--"))]
    assert not long
