"""Builds a family's extension: the one place that touches `torch.utils.cpp_extension`.

One shared library per package holds its CPU and CUDA kernels. It uses LibTorch's stable ABI (target 2.11) and CPython's
limited API, so that one build serves every torch >= 2.11, CPU-only torch included, and every Python >= 3.10.

Environment variables:
    CUDA_HOME              where the CUDA toolkit is; otherwise it is looked for
    TORCH_CUDA_ARCH_LIST   GPU architectures, as in torch ("9.0" or "8.0;9.0+PTX"), or "all": those of
                           RELEASE_ARCHITECTURES that the toolkit knows; otherwise the GPU that is there, or "all"
    RNNKIT_CUDA            "0" builds the CPU kernels only
    RNNKIT_LOCAL_VERSION   "cu128" makes version 0.1.0 into 0.1.0+cu128
    RNNKIT_GLIBC           "2.28" builds for systems as old as that glibc; otherwise for this machine's
    RNNKIT_SANITIZE        "1" builds with the address and undefined-behaviour sanitizers; "2" with all of their checks,
                           line numbers and optimisation, for long runs
    RNNKIT_QUICK           "1" builds for rounds of edit and test: no CUDA kernels, little optimisation, and of the CPU's
                           instruction sets only the best that this machine has
    CXX, LDFLAGS           the compiler, and what the linker gets first, as setuptools knows them
    MAX_JOBS               parallel compilations
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from .manylinux import make_stand_ins

INCLUDE = Path(__file__).parent / "include"
RELEASE_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")

_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # libtorch 2.11
# -ffp-contract: -std=c++17 would otherwise keep GCC from fusing multiply and add. The two warnings are false alarms: of
# passing vectors by value between functions that are all inlined, and (GCC alone knows it) of GCC's own AVX-512 header.
_CXX = ["-O3", "-std=c++17", "-ffp-contract=fast", "-fvisibility=hidden", "-g0", "-Wno-psabi"]
_LARGEST_FRAME = 48 << 10  # bytes: a thread may have as little as 256 KB of stack, of which torch, too, takes its part
_NVCC = ["-O3", "-std=c++17", "-DUSE_CUDA", "--threads=2", "-Xcompiler=-fvisibility=hidden"]
_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
# Compiled in two thirds of the time: what is left out ends the program anyway (null), or has no effect on x86 (alignment).
_SANITIZE_SOON = ["-O0", "-g0", "-fno-sanitize=null,alignment,vptr,object-size,return"]
_SANITIZE_WHOLLY = ["-O1", "-g1"]


def extension_arguments(setup_file: str) -> dict[str, Any]:
    """The keyword arguments for `setuptools.setup` in the package whose setup.py this is.

    Compiles csrc/*.cpp, csrc/cpu/*.cpp and, where there is an nvcc, csrc/cuda/*.cu into `<family>._C`; the family's name
    is that of the one folder in src/.
    """
    from torch.utils import cpp_extension

    root = Path(setup_file).resolve().parent
    (family,) = (folder.name for folder in (root / "src").iterdir() if (folder / "__init__.py").exists())
    _require_links(root / "src" / family)
    csrc = root / "csrc"
    sources = sorted([*csrc.glob("*.cpp"), *csrc.glob("cpu/*.cpp")])
    cuda_home = find_cuda()
    places = _names_for_places(root)
    arguments: dict[str, Any] = {
        "include_dirs": [str(INCLUDE), str(csrc)],
        "define_macros": [("RNNKIT_NAMESPACE", f"rnnkit_{family}")],
        "extra_compile_args": {
            "cxx": [*_cxx(), *_small_frames(), _TARGET, *places, *_quick(), *_sanitize()],
            "nvcc": [*_NVCC, _TARGET, *_without_chance(root), *(f"-Xcompiler={flag}" for flag in places)],
        },
        "extra_link_args": _sanitize(),
        "library_dirs": [],
        "libraries": [],
        "py_limited_api": True,
    }
    if sysconfig.get_platform().startswith("macosx"):
        arguments["extra_link_args"] += ["-undefined", "dynamic_lookup"]  # CPython's symbols are the process's
    else:
        # libtorch.so, which links little itself, makes symbols of libtorch_cuda visible where that is loaded
        arguments["extra_link_args"] += ["-Wl,--no-as-needed,-ltorch,--as-needed", "-Wl,--exclude-libs,ALL"]
    if glibc := os.environ.get("RNNKIT_GLIBC"):
        folder = root / "build" / f"glibc-{glibc}"
        make_stand_ins(glibc, _compiler(), folder)
        arguments["library_dirs"].append(str(folder))
        arguments["libraries"].append("stdc++")
    if cuda_home is None:
        wanted = os.environ.get("RNNKIT_CUDA") != "0" and os.environ.get("RNNKIT_QUICK") != "1"
        why = "no CUDA toolkit found (CUDA_HOME, PATH, site-packages)" if wanted else "without CUDA, as asked"
        print(f"rnnkit: {why}; {family} gets its CPU kernels only")
    else:
        sources += sorted(csrc.glob("cuda/*.cu"))
        cpp_extension.CUDA_HOME = str(cuda_home)
        cpp_extension._check_cuda_version = lambda *_: None  # torch may be for another CUDA: only its stable ABI is used
        os.environ["TORCH_CUDA_ARCH_LIST"] = _architectures(cuda_home)
        print(f"rnnkit: {family} for CUDA {cuda_home}, architectures {os.environ['TORCH_CUDA_ARCH_LIST']}")
        libraries = [folder for folder in ("lib64", "lib") if (cuda_home / folder / "libcudart_static.a").exists()]
        arguments["include_dirs"].append(str(cuda_home / "include"))
        arguments["library_dirs"] += [str(cuda_home / folder) for folder in libraries]
        arguments["libraries"] += ["cudart_static", "rt", "dl", "pthread"]  # static: the library must load without CUDA

    relative = [os.path.relpath(source, Path.cwd()) for source in sources]
    extension = cpp_extension.CppExtension(f"{family}._C", relative, **arguments)
    local = os.environ.get("RNNKIT_LOCAL_VERSION")
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
        "options": {
            "bdist_wheel": {"py_limited_api": "cp310"},
            "egg_info": {"tag_build": f"+{local}"} if local else {},
        },
    }


def _names_for_places(root: Path) -> list[str]:
    """Flags after which messages of errors name files as this repository and torch do, not as the machine that built them."""
    import torch

    places = {root: root.name, INCLUDE: "rnnkit_common/include", Path(torch.__file__).parent: "torch"}
    return [f"-ffile-prefix-map={place}={name}" for place, name in places.items()]


def _without_chance(root: Path) -> list[str]:
    """Flags for nvcc, which would otherwise name things after the number of its process: a release is then one binary."""
    if "RNNKIT_GLIBC" not in os.environ:
        return []
    folder = root / "build" / "nvcc"
    folder.mkdir(parents=True, exist_ok=True)
    return [f"-frandom-seed={root.name}", "--keep", f"--keep-dir={folder}"]


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX", "c++"))  # as "ccache g++"


def _is_clang() -> bool:
    return "clang" in subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, check=True).stdout


def _cxx() -> list[str]:
    return _CXX if _is_clang() else [*_CXX, "-Wno-maybe-uninitialized"]


def _small_frames() -> list[str]:
    """Flags that refuse functions with much on the stack; those that are not optimised have more, and are not for release."""
    if _quick() or _sanitize():
        return []
    if _is_clang():
        return [f"-Wframe-larger-than={_LARGEST_FRAME}", "-Werror=frame-larger-than"]
    return [f"-Werror=frame-larger-than={_LARGEST_FRAME}"]


def _require_links(sources: Path) -> None:
    for path in sources.glob("_*.py"):
        if path.read_text().startswith("../"):  # what git, or an unpacked archive, puts in the place of a link
            raise RuntimeError(
                f"{path} should be a link to {path.read_text().strip()}, but this checkout has no symbolic links: on Windows, enable "
                "the developer mode and `git config core.symlinks true`, and check out again; or install from a wheel or an sdist"
            )


def find_cuda() -> Path | None:
    """The folder of a CUDA toolkit: CUDA_HOME, a pip-installed toolkit, that of the nvcc on PATH, or /usr/local/cuda."""
    if os.environ.get("RNNKIT_CUDA") == "0" or os.environ.get("RNNKIT_QUICK") == "1":
        return None
    if "CUDA_HOME" in os.environ:
        home = Path(os.environ["CUDA_HOME"])
        if not (home / "bin" / "nvcc").exists():
            raise FileNotFoundError(f"CUDA_HOME is {home}, where there is no bin/nvcc")
        return home
    on_path = shutil.which("nvcc")
    candidates = [
        *sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*"), reverse=True),
        *([Path(on_path).resolve().parent.parent] if on_path else []),
        Path("/usr/local/cuda"),
    ]
    for home in candidates:
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


def emulate(csrc: Path, family: str, build_directory: Path) -> Path:
    """Compiles csrc/cuda/*.cu as ordinary C++ (rnnkit/cuda/emulation) and returns the library.

    Loaded with `torch.ops.load_library`, it defines the family's ops for CPU tensors under the namespace
    `rnnkit_<family>_emulated`.
    """
    build_directory.mkdir(parents=True, exist_ok=True)
    sources = list(csrc.glob("*.cpp"))
    for source in csrc.glob("cuda/*.cu"):  # a wrapper each, as torch would hand a .cu to nvcc
        wrapper = build_directory / f"{source.stem}_emulated.cpp"
        text = f'#include "{source}"\n'
        if not wrapper.exists() or wrapper.read_text() != text:
            wrapper.write_text(text)
        sources.append(wrapper)
    flags = ["-O1", "-DRNNKIT_EMULATE_CUDA", f"-I{csrc}"]
    return compile_library(f"rnnkit_{family}_emulated", sources, build_directory, flags)


def compile_library(namespace: str, sources: list[Path], build_directory: Path, flags: list[str]) -> Path:
    """Compiles C++ sources into a library of ops for tests, under `namespace`; unchanged sources are not compiled again."""
    import fcntl

    from torch.utils import cpp_extension

    build_directory.mkdir(parents=True, exist_ok=True)
    preloaded = os.environ.pop("LD_PRELOAD", None)  # a sanitizer's runtime is not for the compiler
    try:
        with (build_directory / "turn").open("w") as turn:
            # the kernel forgets this lock when its holder is killed; torch's own, a file, all would wait for then
            fcntl.flock(turn, fcntl.LOCK_EX)
            (build_directory / "lock").unlink(missing_ok=True)
            cpp_extension.load(
                namespace,
                [str(source) for source in sources],
                extra_cflags=[
                    *_cxx(),
                    _TARGET,
                    f"-DRNNKIT_NAMESPACE={namespace}",
                    "-DRNNKIT_TEST_LIBRARY",
                    *flags,
                    *_sanitize(),
                ],
                extra_ldflags=_sanitize(),
                extra_include_paths=[str(INCLUDE)],
                build_directory=str(build_directory),
                is_python_module=False,
                with_cuda=False,
            )
    finally:
        if preloaded is not None:
            os.environ["LD_PRELOAD"] = preloaded
    return build_directory / f"{namespace}.so"


def _sanitize() -> list[str]:
    wanted = os.environ.get("RNNKIT_SANITIZE")
    if wanted not in ("1", "2"):
        return []
    # optimised, it compiles four times as long, but what takes minutes to run takes seconds
    return [*_SANITIZE, *(_SANITIZE_SOON if wanted == "1" else _SANITIZE_WHOLLY)]


def _quick() -> list[str]:
    if os.environ.get("RNNKIT_QUICK") != "1":
        return []
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    target = "AVX512" if capability.startswith("AVX512") else "AVX2" if capability == "AVX2" else "BASELINE"
    return ["-O1", "-Wfatal-errors", f"-DRNNKIT_ONLY_TARGET=RNNKIT_{target}"]  # a wrong cell is one error, not hundreds


def _architectures(cuda_home: Path) -> str:
    import torch

    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "all")
    if "TORCH_CUDA_ARCH_LIST" not in os.environ and torch.cuda.is_available():
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return ";".join(f"{major}.{minor}" for major, minor in sorted(capabilities))
    if wanted != "all":
        return wanted
    nvcc = subprocess.run([cuda_home / "bin" / "nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = nvcc.stdout.split()
    targets = [name for name in RELEASE_ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
    return ";".join(targets) + "+PTX"
