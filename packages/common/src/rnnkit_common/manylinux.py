"""Links against the libraries of older systems than the machine's: what a wheel's tag promises (manylinux_2_28: RHEL 8's).

glibc and libstdc++ keep the old versions of a symbol beside the new, but a linker binds to the newest. So the extension is
linked against stand-ins, made of the machine's own lists of symbols: each at its newest version that is not newer than the
limit, and nothing else. What libstdc++ got later is linked statically (gcc-toolset, with which torch is built, does so);
what runs is otherwise the system's own libraries. What a newer glibc's headers refer to and an older one lacks would stay
undefined: `nox -s audit` refuses it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

LIMITS = {"2.28": {"GLIBC": "2.28", "GLIBCXX": "3.4.25", "CXXABI": "1.3.11"}}  # GCC 8's

# What libstdc++'s headers refer to, and an older glibc lacks: whether there is but one thread, so that references can be
# counted without atomics. "No" is always right.
_SINGLE_THREADED = """
.data
.globl __libc_single_threaded
.hidden __libc_single_threaded
.type __libc_single_threaded, STT_OBJECT
.size __libc_single_threaded, 1
__libc_single_threaded: .byte 0
.section .note.GNU-stack, "", %progbits
"""


def make_stand_ins(glibc: str, compiler: list[str], folder: Path) -> None:
    """Of the libraries of `compiler`, in `folder`: to be linked with `-L folder -lstdc++` before any other library."""
    if glibc not in LIMITS:
        raise ValueError(f"RNNKIT_GLIBC is {glibc}; it may be {', '.join(LIMITS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6"):
        _stand_in(name, _symbols(_path(compiler, name), LIMITS[glibc]), compiler, folder)
    single_threaded = _assemble(_SINGLE_THREADED, compiler, folder / "single_threaded")
    (folder / "libm.so").write_text(f'INPUT("{folder}/libm.so.6")\n')
    script = Path(_path(compiler, "libc.so")).read_text()  # it names the static part of libc and the loader, too
    script = re.sub(r"\S+/libc\.so\.6", lambda _: f'"{folder}/libc.so.6"', script)
    (folder / "libc.so").write_text(f'{script}INPUT("{single_threaded}")\n')
    (folder / "libstdc++.so").write_text(f'INPUT("{folder}/libstdc++.so.6" "{_path(compiler, "libstdc++.a")}")\n')


def _symbols(library: str, limits: dict[str, str]) -> dict[str, tuple[str, str]]:
    """name -> (version, type) of the newest version of each symbol of a library that is within the limits."""
    listed = subprocess.run(["readelf", "-W", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
    pattern = r" (FUNC|IFUNC|OBJECT) +(?:GLOBAL|WEAK|UNIQUE) +DEFAULT +\d+ (\w+)@@?([A-Z]+)_([\d.]+)$"
    found: dict[str, tuple[str, str]] = {}
    for kind, name, base, number in re.findall(pattern, listed, re.M):
        allowed = base in limits and _number(number) <= _number(limits[base])
        if allowed and (name not in found or _number(number) > _number(found[name][0])):
            found[name] = (f"{base}_{number}", "STT_OBJECT" if kind == "OBJECT" else "STT_FUNC")
    return found


def _stand_in(soname: str, symbols: dict[str, tuple[str, str]], compiler: list[str], folder: Path) -> None:
    lines = [".data"]
    for index, (name, (version, kind)) in enumerate(sorted(symbols.items())):
        lines += [f".globl s{index}", f".type s{index}, {kind}", f".size s{index}, 8", f"s{index}: .quad 0"]
        lines += [f".symver s{index}, {name}@@{version}"]
    script = folder / f"{soname}.versions"
    versions = "".join(f"{version} {{}};\n" for version in sorted({version for version, _ in symbols.values()}))
    script.write_text(versions + "hidden { local: s[0-9]*; };\n")
    made = _assemble("\n".join(lines) + "\n", compiler, folder / soname)
    flags = ["-shared", "-nostdlib", "-Xlinker", "-soname", "-Xlinker", soname, "-Xlinker", "--version-script", "-Xlinker"]
    subprocess.run([*compiler, *flags, str(script), str(made), "-o", str(folder / soname)], check=True)


def _assemble(text: str, compiler: list[str], path: Path) -> Path:
    source, made = (path.with_name(f"{path.name}{suffix}") for suffix in (".s", ".o"))
    source.write_text(text)
    subprocess.run([*compiler, "-c", source, "-o", made], check=True)
    return made


def _path(compiler: list[str], library: str) -> str:
    command = [*compiler, f"-print-file-name={library}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.rpartition("_")[2].split(".")))
