"""Counts what the device will execute: the instructions, registers and stack of every kernel in a library.

    python benchmarks/sass.py dist/*.whl                            all kernels, a line each
    python benchmarks/sass.py FILE --kernel scan_forward --steady   and the instructions that are counted

It needs cuobjdump and nvdisasm (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm), but no GPU, and its answer has no noise.

A kernel's time goes into its largest loop; that of RNN-T's joint kernels, whose largest is over rows, into the loop over a row's
columns: of those within which there is no other, the one with the most loads of 16 bytes and the fewest instructions. Of the ways once around it, the one that moves the most bytes to and from global
memory is counted: a full tile, with the next one's loads on their way; and of those that move as many, the shortest: the way
without special cases. Loops within it count once. Columns:

    registers, stack   a thread's; 8 bytes of stack are the message of an error
    loop               instructions on the way
    output             of these, for each output (where the kernel's name tells how many there are)
    local              accesses to the stack on the way: spilled registers
    flight             KB of loads that the warps of a multiprocessor can have under way, if each is at its loads
    wait               the fewest instructions from a load to where its value is needed: a warp's own cover for the latency
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+) )?([A-Z][\w.]*)\s*(.*?) ;")
_TARGET = re.compile(r"0x([0-9a-f]+)$")
_REGISTER = re.compile(r"\bR(\d+)\b")
_ROW = re.compile(r"joint_\w+_kernel<.*?(\w+), \d+>")
_BYTES = {"double": 8, "float": 4, "Half": 2, "BFloat16": 2}
_LEAVES = ("EXIT", "RET", "BRX", "JMX")
_BITS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of SASS."""

    address: int
    predicate: str | None
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        match = _TARGET.search(self.operands) if self.name.partition(".")[0] == "BRA" else None
        return int(match[1], 16) if match else None

    @property
    def moved_bytes(self) -> int:
        """To or from global memory, a thread; single bytes are marks (resets, padding), and strong accesses what blocks show each
        other: they do not count."""
        parts = self.name.split(".")
        if parts[0] not in ("LDG", "STG") or "STRONG" in parts:
            return 0
        bits = next((_BITS[part] for part in parts if part in _BITS), 32)
        return 0 if bits == 8 else bits // 8


@dataclasses.dataclass
class Kernel:
    """A kernel's code, and what of it runs once for each tile."""

    name: str
    instructions: list[Instruction]
    registers: int = 0
    stack: int = 0

    @functools.cached_property
    def blocks(self) -> list[list[Instruction]]:
        """The instructions between places that are jumped to or from."""
        starts = {instruction.target for instruction in self.instructions}
        blocks: list[list[Instruction]] = [[]]
        for instruction in self.instructions:
            if blocks[-1] and instruction.address in starts:
                blocks.append([])
            blocks[-1].append(instruction)
            if instruction.target is not None or instruction.name.partition(".")[0] in _LEAVES:
                blocks.append([])
        return [block for block in blocks if block]

    @functools.cached_property
    def successors(self) -> list[list[int]]:
        starting = {block[0].address: i for i, block in enumerate(self.blocks)}
        successors = []
        for i, block in enumerate(self.blocks):
            last = block[-1]
            into = [starting[last.target]] if last.target in starting else []
            leaves = last.target is not None or last.name.partition(".")[0] in _LEAVES
            conditional = last.predicate is not None or "P" in last.operands.split("0x")[0]
            if (not leaves or conditional) and i + 1 < len(self.blocks):
                into.append(i + 1)
            successors.append(into)
        return successors

    def loops(self) -> Iterator[tuple[int, set[int]]]:
        """Each loop's first block, and all of its blocks (those that reach the jump back without passing the first)."""
        predecessors: list[list[int]] = [[] for _ in self.blocks]
        for i, into in enumerate(self.successors):
            for j in into:
                predecessors[j].append(i)
        for tail, into in enumerate(self.successors):
            for head in into:
                if head > tail:
                    continue
                body = {head, tail}
                waiting = [tail]
                while waiting:
                    block = waiting.pop()
                    new = [] if block == head else [i for i in predecessors[block] if i not in body]
                    body.update(new)
                    waiting += new
                if head == 0 or 0 not in body:  # else it can be entered from elsewhere: code that was moved to the end
                    yield head, body

    def _size(self, blocks: set[int]) -> int:
        return sum(len(self.blocks[i]) for i in blocks)

    def _pack_loads(self, blocks: set[int]) -> int:
        """Loads of 16 bytes."""
        return sum(one.name.startswith("LDG") and one.moved_bytes == 16 for i in blocks for one in self.blocks[i])

    @functools.cached_property
    def steady(self) -> list[Instruction]:
        """The way through the largest loop that is counted; empty where there is no loop."""
        loops = list(self.loops())
        if not loops:
            return []
        if _ROW.search(self.name):
            innermost = [loop for loop in loops if not any(other < loop[1] for _, other in loops)]
            head, body = max(innermost, key=lambda loop: (self._pack_loads(loop[1]), -self._size(loop[1])))
        else:
            head, body = max(loops, key=lambda loop: self._size(loop[1]))
        order: list[int] = []  # the body's blocks, each after its successors; jumps back are left out
        seen: set[int] = set()

        def visit(i: int) -> None:
            seen.add(i)
            for j in self.successors[i]:
                if j in body and j not in seen:
                    visit(j)
            order.append(i)

        visit(head)
        place = {block: i for i, block in enumerate(order)}
        best: dict[int, tuple[int, int, list[int]]] = {}  # from a block to the end: bytes, minus instructions, blocks
        for i in order:
            forward = [best[j] for j in self.successors[i] if j in best and place[j] < place[i]]
            if not forward and head not in self.successors[i]:
                continue
            moved, instructions, way = max(forward, default=(0, 0, []))
            block = self.blocks[i]
            best[i] = (moved + sum(one.moved_bytes for one in block), instructions - len(block), [i, *way])
        return [instruction for i in best[head][2] for instruction in self.blocks[i]]

    @property
    def local(self) -> int:
        return sum(one.name.partition(".")[0] in ("LDL", "STL") for one in self.steady)

    @property
    def flight(self) -> int:
        of_scheduler = 16384 // (32 * -(-max(self.registers, 32) // 8) * 8)  # warps, of 4 schedulers; 16 at most
        loaded = sum(one.moved_bytes for one in self.steady if one.name.startswith("LDG"))
        return 4 * min(of_scheduler, 16) * 32 * loaded

    @property
    def wait(self) -> int:
        """0 where nothing is loaded."""
        waits = []
        for i, one in enumerate(self.steady):
            if not one.name.startswith("LDG") or one.moved_bytes == 0:
                continue
            first = int(_REGISTER.findall(one.operands)[0])
            loaded = set(range(first, first + max(1, one.moved_bytes // 4)))
            for distance, later in enumerate([*self.steady[i + 1 :], *self.steady[:i]], 1):
                operands = later.operands if later.name.startswith("ST") else later.operands.partition(",")[2]
                if loaded & {int(register) for register in _REGISTER.findall(operands)}:
                    waits.append(distance)
                    break
        return min(waits, default=0)

    @property
    def outputs(self) -> int:
        """How many outputs a thread makes on the way that is counted, where the kernel's name tells; else 0."""
        row = _ROW.search(self.name)
        if row:
            return sum(one.moved_bytes for one in self.steady if one.name.startswith("LDG")) // _BYTES[row[1]]
        match = re.search(r"Tile<(?:\(int\))?(\d+), (?:\(int\))?(\d+)>", self.name)
        return int(match[1]) * int(match[2]) if match else 0


def tool(name: str) -> str:
    folders = [os.environ.get("PATH", ""), *map(str, Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin"))]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        raise FileNotFoundError(f"{name} is neither on PATH nor in site-packages: pip install nvidia-cuda-{name}")
    return path


def parse(listing: str) -> list[Kernel]:
    """What `cuobjdump -sass` prints."""
    kernels = []
    for section in listing.split("Function : ")[1:]:
        name, _, code = section.partition("\n")
        matches = _INSTRUCTION.finditer(code)
        instructions = [Instruction(int(m[1], 16), m[2], m[3], m[4].strip()) for m in matches]
        last = max(i for i, one in enumerate(instructions) if one.name != "NOP")
        kernels.append(Kernel(name.strip(), instructions[: last + 1]))
    return kernels


def read(path: Path, architecture: str = "sm_90") -> list[Kernel]:
    """The kernels in a wheel, a shared library or a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                (member,) = (name for name in wheel.namelist() if name.endswith(".so"))
                path = Path(wheel.extract(member, folder))
        environment = {**os.environ, "PATH": os.pathsep.join([str(Path(tool("nvdisasm")).parent), os.environ["PATH"]])}

        def dump(what: str) -> str:
            command = [tool("cuobjdump"), "-arch", architecture, what, str(path)]
            return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

        kernels = parse(dump("-sass"))
        usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", dump("-res-usage"))
    for kernel in kernels:
        kernel.registers, kernel.stack = next((int(r), int(s)) for name, r, s in usage if name == kernel.name)
    mangled = "\n".join(kernel.name for kernel in kernels)
    plain = subprocess.run(["c++filt"], input=mangled, check=True, capture_output=True, text=True)
    for kernel, name in zip(kernels, plain.stdout.splitlines(), strict=True):
        kernel.name = name
    return kernels


def short(name: str) -> str:
    """Without namespaces and parameters."""
    name = re.sub(r"\b(?:rnnkit::|cuda::|c10::|\(anonymous namespace\)::)+|^void ", "", name)
    depth = 0
    for i, character in enumerate(name):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "(" and depth == 0:
            return name[:i]
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--architecture", default="sm_90")
    parser.add_argument("--kernel", default="", help="only kernels whose name has this in it")
    parser.add_argument("--steady", action="store_true", help="print the instructions that are counted")
    arguments = parser.parse_args()
    print(f"{'registers':>9} {'stack':>6} {'loop':>6} {'output':>7} {'local':>6} {'flight':>7} {'wait':>5}  kernel")
    for path in arguments.files:
        for kernel in read(path, arguments.architecture):
            if arguments.kernel not in kernel.name:
                continue
            output = f"{len(kernel.steady) / kernel.outputs:.1f}" if kernel.outputs else ""
            print(
                f"{kernel.registers:9} {kernel.stack:6} {len(kernel.steady):6} {output:>7} {kernel.local:6} "
                f"{kernel.flight // 1024:7} {kernel.wait:5}  {short(kernel.name)}"
            )
            for one in kernel.steady if arguments.steady else ():
                predicate = f"@{one.predicate} " if one.predicate else ""
                print(f"    {one.address:05x}  {predicate}{one.name} {one.operands}")


if __name__ == "__main__":
    main()
