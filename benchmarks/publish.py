"""Makes all pictures and all tables of numbers from results/*.json: nobody edits a number by hand.

    python benchmarks/publish.py            makes them (drawing needs matplotlib)
    python benchmarks/publish.py --check    only tells whether they are those of the JSON; needs nothing but Python

A table stands in a README between <!-- benchmarks/publish.py: RESULTS PART --> and <!-- end -->, RESULTS being a file's name
without .json. A picture carries a digest of the JSON that it was drawn from in its metadata.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import re
import statistics
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
READMES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]
TABLE = re.compile(r"(<!-- benchmarks/publish\.py: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)

Group = dict[str, Any]  # as suite.Group.measure leaves it


@dataclasses.dataclass(frozen=True)
class Headline:
    """One row of the root README: a training step of ours beside its limit and its peers."""

    package: str
    what: str
    group: tuple[str, str]  # part and what; the first of them
    ours: str
    limit: str
    peers: dict[str, str]  # names in the JSON -> names in print

    def candidates(self) -> dict[str, dict[str, Any]]:
        part, what = self.group
        groups = load(RESULTS / f"{self.package}-cpu.json")["groups"]
        found: dict[str, dict[str, Any]] = next(g for g in groups if (g["part"], g["what"]) == (part, what))["candidates"]
        return found


HEADLINES = (
    Headline(
        "mingru",
        "minGRU layer, (B, T, D) = (8, 1024, 256)",
        ("layer", "training step"),
        "minGRU",
        "products alone",
        {"nn.GRU": "nn.GRU", "minGRU-pytorch": "minGRU-pytorch"},
    ),
    Headline(
        "qrnn",
        "QRNN layer, (T, B, H) = (105, 20, 640)",
        ("layer", "training step"),
        "QRNN",
        "products alone",
        {"nn.LSTM": "nn.LSTM", "fastai 1.0.61": "fastai"},
    ),
    Headline(
        "sru",
        "two SRU layers, (T, B, D) = (128, 32, 512)",
        ("layers", "training step"),
        "SRU",
        "products alone",
        {"nn.LSTM": "nn.LSTM", "sru 2.6.0": "sru 2.6.0"},
    ),
    Headline(
        "ligru",
        "Li-GRU layer, (B, T, F, H) = (8, 400, 256, 512)",
        ("layer", "training step"),
        "LiGRU",
        "products alone",
        {"nn.LSTM": "nn.LSTM", "nn.GRU": "nn.GRU", "SpeechBrain LiGRU": "SpeechBrain"},
    ),
    Headline(
        "rnnt_loss",
        "RNN-T loss of logits, (B, T, S, C) = (8, 200, 50, 500)",
        ("losses", "exact loss of logits"),
        "rnnt_loss",
        "copy",
        {"fast_rnnt": "fast_rnnt", "torchaudio": "torchaudio"},
    ),
    Headline(
        "rnnt_loss",
        "pruned RNN-T step, the same with a joiner of 512",
        ("losses", "pruned step"),
        "rnnt_loss, logits kept",
        "products alone",
        {"fast_rnnt": "fast_rnnt"},
    ),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of some parts of a package's results, on each device that they were measured on."""

    source: str  # <source>-<device>.json
    suffix: str  # of <source>-<device><suffix>.png
    parts: tuple[str, ...]  # none: all
    kind: str  # a function of plots.py
    title: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


FIGURES = (
    Figure("mingru", "-length", ("by length",), "lines", "Training step by length of the sequence", {"x": "T"}),
    Figure("mingru", "-op", ("op",), "shares", "minGRU's scan: time of a copy that moves as many bytes, over its own"),
    Figure("qrnn", "-figure4", ("figure 4",), "grid", "QRNN: nn.LSTM's time over ours, inference of a layer of 320 units"),
    Figure("qrnn", "-op", ("op",), "shares", "QRNN's pooling: time of a copy that moves as many bytes, over its own"),
    Figure("sru", "-figure", ("figure",), "bars", "A layer of SRU, LSTM and convolution, 32 sequences"),
    Figure("sru", "-op", ("op",), "shares", "SRU's recurrence: time of a copy that moves as many bytes, over its own"),
    Figure("ligru", "-size", ("by size",), "lines", "A step in time by hidden size", {"x": "H", "per": "T"}),
    Figure("ligru", "-length", ("by length",), "lines", "A step in time by length", {"x": "T", "per": "T"}),
    Figure("rnnt_loss", "", ("losses",), "bars", "RNN-T losses, forward and backward"),
    Figure("scaling", "", (), "growth", "Training step: time (line) and peak memory (dashed) by size, and their exponents"),
    Figure("processes", "", (), "bars", "A step of one process, and of two with half of it each; a thread each"),
)


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def title_of(group: Group) -> str:
    """What a group measures, and of which sizes."""
    return f"{group['what']}, {sizes_of(group)}"


def sizes_of(group: Group) -> str:
    """A group's sizes and dtype, and its threads if they are not all."""
    names, values = (", ".join(map(str, column)) for column in (group["sizes"], group["sizes"].values()))
    threads = f", {group['threads']} thread" if group["threads"] else ""
    return f"({names}) = ({values}), {group['dtype']}{threads}"


def groups_of(document: dict[str, Any], parts: tuple[str, ...]) -> list[Group]:
    return [group for group in document["groups"] if not parts or group["part"] in parts]


def overview_table() -> str:
    """Of the root README."""
    lines = ["| forward and backward, float32 | ours | peak memory | its limit | others |", "|---|---|---|---|---|"]
    for row in HEADLINES:
        found = row.candidates()
        ours, limit = found[row.ours], found[row.limit]["median"]
        others = ", ".join(
            f"{name} {found[key]['median'] / ours['median']:.1f} x ours" for key, name in row.peers.items() if key in found
        )
        lines.append(
            f"| [{row.package}](packages/{row.package}): {row.what} | {1e3 * ours['median']:.1f} ms "
            f"| {ours['peak memory, MB']:.0f} MB | {ours['median'] / limit:.2f} x {row.limit} | {others} |"
        )
    return "\n".join(lines)


def table(document: dict[str, Any], part: str) -> str:
    """Candidates of each group, with median and half of the quartiles' distance, ratios, and peak memory beside the inputs."""
    blocks = []
    for group in groups_of(document, (part,)):
        ours, limit = (group["ours"] or [None])[0], group["limit"]
        head = [
            title_of(group),
            "time",
            *([f"over {limit}"] if limit else []),
            *([f"over {ours}"] if ours else []),
            "peak memory",
        ]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, found in group["candidates"].items():
            unit, scale = ("ms", 1e3) if found["median"] > 1e-3 else ("us", 1e6)
            spread = scale * (found["quartile3"] - found["quartile1"]) / 2
            time = f"{scale * found['median']:.1f} ± {spread:.1f} {unit}"
            ratios = [f"{found[key]:.2f}" for key in ("over limit", "over ours") if key in found]
            memory = found.get("peak memory, MB")
            shown = "" if memory is None else f"{memory:.0f} MB" if memory >= 1 else "< 1 MB"
            label = f"**{name}**" if name in group["ours"] else name
            lines.append(f"| {' | '.join([label, time, *ratios, shown])} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def growth_table(groups: list[Group]) -> str:
    """Exponents of time, and of memory in brackets, by family and size."""
    axes = list(dict.fromkeys(group["what"] for group in groups))
    lines = [f"| time (memory) grows with the power | {' | '.join(axes)} |", "|---" * (len(axes) + 1) + "|"]
    rows: dict[str, dict[str, str]] = {}
    for group in groups:
        sizes, found = [int(size) for size in group["candidates"]], list(group["candidates"].values())
        time, memory = (slope(sizes, [entry[key] for entry in found]) for key in ("median", "peak memory, MB"))
        rows.setdefault(group["part"], {})[group["what"]] = f"{time:.2f} ({memory:.2f})"
    rows["the mathematics"] = {group["what"]: str(group["exponent of the mathematics"]) for group in groups}
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(row.get(axis, '') for axis in axes)} |" for name, row in rows.items())]
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the logarithms of the larger half: below it, what does not grow still counts."""
    half = len(x) // 2
    logs = [[math.log(value) for value in values[half:]] for values in (x, y)]
    return statistics.linear_regression(*logs).slope


def tables(text: str) -> str:
    """A README's text with the tables of the JSON."""

    def made(match: re.Match[str]) -> str:
        results, _, part = match[2].partition(" ")
        if results == "overview":
            new = overview_table()
        else:
            document = load(RESULTS / f"{results}.json")
            new = growth_table(document["groups"]) if part == "growth" else table(document, part)
        return f"{match[1]}{new}\n{match[4]}"

    return TABLE.sub(made, text)


def pictures(folder: Path) -> Iterator[tuple[Path, list[Path], Callable[[], Any]]]:
    """Each picture that the results in a folder make: its path, its sources, and what draws it."""
    for figure in FIGURES:
        for source in (folder / f"{figure.source}-{device}.json" for device in ("cpu", "cuda")):
            if not source.exists():
                continue
            document = load(source)
            groups = groups_of(document, figure.parts)
            if groups:
                yield (
                    source.with_name(f"{source.stem}{figure.suffix}.png"),
                    [source],
                    lambda f=figure, g=groups, d=document: _plots(f.kind)(g, f"{f.title}; {machine_name(d)}", **f.options),
                )
    sources = sorted({folder / f"{row.package}-cpu.json" for row in HEADLINES})
    if folder == RESULTS:
        yield folder / "overview-cpu.png", sources, lambda: _plots("overview")(HEADLINES, machine_name(load(sources[0])))


def machine_name(document: dict[str, Any]) -> str:
    """The GPU, or the CPU and its cores in use."""
    hardware = document["hardware"]
    name: str = hardware.get("gpu") or f"{hardware['threads']} cores of an {hardware['cpu']}"
    return name


def _plots(kind: str) -> Any:
    import plots

    return getattr(plots, kind)


def digest(sources: list[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def drawn_from(picture: Path) -> str:
    """The description in a PNG's metadata."""
    data, at = picture.read_bytes() if picture.exists() else b"", 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        keyword, _, text = data[at + 8 : at + 8 + length].partition(b"\0")
        if kind == b"tEXt" and keyword == b"Description":
            return text.decode("latin-1")
        at += 12 + length
    return ""


def stale(folder: Path) -> list[Path]:
    """Pictures in a folder, and READMEs, that are not those of the JSON."""
    found = [path for path, sources, _ in pictures(folder) if drawn_from(path) != digest(sources)]
    if folder == RESULTS:
        found += [path for path in READMES if tables(path.read_text()) != path.read_text()]
    return found


def publish(folder: Path, *, everything: bool = False) -> None:
    """Draws what is stale in a folder, or everything, and, where it is the repository's, makes the tables anew."""
    for path, sources, draw in pictures(folder):
        if everything or drawn_from(path) != digest(sources):
            draw().savefig(path, dpi=150, metadata={"Description": digest(sources)})
    if folder == RESULTS:
        for path in READMES:
            path.write_text(tables(path.read_text()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        publish(RESULTS, everything=True)
    elif old := stale(RESULTS):
        names = ", ".join(str(path.relative_to(ROOT)) for path in old)
        sys.exit(f"not those of benchmarks/results/*.json: {names}; run python benchmarks/publish.py")
