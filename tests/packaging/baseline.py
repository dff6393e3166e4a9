"""Checks that no instruction beyond the baseline of x86-64 lies outside the functions that are compiled for it.

A wheel has every kernel for several instruction sets and chooses when it runs (rnnkit/cpu/foreach_target.h). One function
of a shared header that the compiler emits while it compiles for AVX2, and that the linker keeps for all, would end the
program on an older machine, and on no machine of ours.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# Instruction set -> its registers and mnemonics, as objdump writes them. sse: all after SSE2.
BEYOND = {
    "avx512": re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]"),
    "avx2": re.compile(
        r"^(\{\w+\} |[cdefgs]s )*v(?!er[rw])|%ymm|^(andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|movbe|ad[co]x)[lq]?\b"
    ),
    "sse": re.compile(
        r"^(popcnt[wlq]?|blendv?p[sd]|pblend\w+|pshufb|ph(add|sub)\w+|h(add|sub)p[sd]|palignr|pabs[bwd]|psign[bwd]|round[ps][sd]|ptest"
        r"|p(insr|extr)[bdq]|p(min|max)(sb|uw|[su]d)|pmov[sz]x\w+|pmul(dq|ld|hrsw)|packusdw|pcmp(eqq|gtq|[ei]str[im])|mov(s[hl]|d)dup"
        r"|crc32[bwlq]?|dpp[sd]|(insert|extract)ps|mpsadbw|pmaddubsw|phminposuw|movntdqa|lddqu|addsubp[sd]|fisttp\w*"
        r"|aes\w+|pclmul\w+|sha(1|256)\w+|rd(rand|seed)\w?|cmpxchg16b|xsavec\w*)\b"
    ),
}
ALLOWED = {"::avx512::": BEYOND.keys(), "::avx2::": {"avx2", "sse"}}  # in functions whose names have this


def misplaced(library: Path) -> dict[str, str]:
    """function -> an instruction in it that not every machine has, and that its name does not tell of."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", "-M", "suffix", str(library)]
    found: dict[str, str] = {}
    function = ""
    seen = 0
    patterns = list(BEYOND.values())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        for line in listing.stdout:
            if title := re.match(r"[0-9a-f]+ <(.+)>:$", line):
                function = title[1]
                seen += 1
                allowed = next((sets for name, sets in ALLOWED.items() if name in _own_name(function)), ())
                patterns = [pattern for name, pattern in BEYOND.items() if name not in allowed]
            elif "\t" in line:
                instruction = line.split("\t", 1)[1].strip()
                if any(pattern.search(instruction) for pattern in patterns):
                    found.setdefault(function, instruction)
    if listing.returncode != 0 or seen == 0:
        raise RuntimeError(f"objdump did not read {library}")
    return found


def _own_name(function: str) -> str:
    """Without its parameters, whose types say nothing of what it was compiled for."""
    depth = 0
    for i in range(len(function) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(function[i], 0)
        if function[i] == "(" and depth == 0:
            return function[:i]
    return function
