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
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from records import RESULTS, Record, load, machine_name, records_of, shape_of, slope, title_of

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]
TABLE = re.compile(r"(<!-- benchmarks/publish\.py: (.+?) -->\n)(.*?)(<!-- end -->)", re.S)


@dataclasses.dataclass(frozen=True)
class Headline:
    """One row of the root README: a training step of ours beside its limit and its peers."""

    package: str
    what: str
    group: tuple[str, str]  # part and what; the first of them
    peers: dict[str, str]  # names in the JSON -> names in print
    ours: str | None = None  # default: the first of the JSON's

    @property
    def record(self) -> Record:
        """The measurement."""
        records = load(RESULTS / f"{self.package}-cpu.json")["groups"]
        match: Record = next(record for record in records if (record["part"], record["what"]) == self.group)
        return match

    @property
    def label(self) -> str:
        """In print."""
        return f"{self.what}, {shape_of(self.record)}"

    def candidate(self, name: str | None = None) -> dict[str, Any]:
        """Ours, or another."""
        entry: dict[str, Any] = self.record["candidates"][name or self.ours or self.record["ours"][0]]
        return entry

    def factors(self) -> dict[str, float]:
        """Times of the limit, which comes first, and of the peers that were measured, over ours."""
        limit: str = self.record["limit"]
        names = {limit: limit, **{key: name for key, name in self.peers.items() if key in self.record["candidates"]}}
        ours = self.candidate()["median"]
        return {name: self.candidate(key)["median"] / ours for key, name in names.items()}


_STEP = ("layer", "training step")
HEADLINES = (
    Headline("mingru", "minGRU layer", _STEP, {"nn.GRU": "nn.GRU", "minGRU-pytorch": "minGRU-pytorch"}),
    Headline("qrnn", "QRNN layer", _STEP, {"nn.LSTM": "nn.LSTM", "fastai 1.0.61": "fastai"}),
    Headline("sru", "two SRU layers", ("layers", "training step"), {"nn.LSTM": "nn.LSTM", "sru 2.6.0": "sru 2.6.0"}),
    Headline("ligru", "Li-GRU layer", _STEP, {"nn.LSTM": "nn.LSTM", "nn.GRU": "nn.GRU", "SpeechBrain LiGRU": "SpeechBrain"}),
    Headline(
        "rnnt_loss",
        "RNN-T loss of logits",
        ("losses", "exact loss of logits"),
        {"fast_rnnt": "fast_rnnt", "torchaudio": "torchaudio"},
    ),
    Headline(
        "rnnt_loss", "pruned RNN-T step", ("losses", "pruned step"), {"fast_rnnt": "fast_rnnt"}, "rnnt_loss, logits kept"
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


def overview_table() -> str:
    """Of the root README."""
    lines = ["| forward and backward, float32 | ours | peak memory | its limit | others |", "|---|---|---|---|---|"]
    for row in HEADLINES:
        ours, (limit, *others) = row.candidate(), row.factors().items()
        beside = ", ".join(f"{name} {factor:.1f} x ours" for name, factor in others)
        lines.append(
            f"| [{row.package}](packages/{row.package}/README.md): {row.label} | {1e3 * ours['median']:.1f} ms "
            f"| {ours['peak memory, MB']:.0f} MB | {1 / limit[1]:.2f} x {limit[0]} | {beside} |"
        )
    return "\n".join(lines)


def table(document: dict[str, Any], part: str) -> str:
    """Candidates of each record: median, half of the quartiles' distance, if kept, ratios, and peak memory beside the inputs."""
    blocks = []
    for record in records_of(document, (part,)):
        ours, limit = (record["ours"] or [None])[0], record["limit"]
        head = [
            title_of(record),
            "time",
            *([f"over {limit}"] if limit else []),
            *([f"over {ours}"] if ours else []),
            "peak memory",
        ]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for name, times in record["candidates"].items():
            unit, scale = ("ms", 1e3) if times["median"] > 1e-3 else ("us", 1e6)
            spread = ""
            if "quartile1" in times:
                spread = f" ± {scale * (times['quartile3'] - times['quartile1']) / 2:.1f}"
            time = f"{scale * times['median']:.1f}{spread} {unit}"
            ratios = [f"{times[key]:.2f}" for key in ("over limit", "over ours") if key in times]
            memory = times.get("peak memory, MB")
            shown = "" if memory is None else f"{memory:.0f} MB" if memory >= 1 else "< 1 MB"
            label = f"**{name}**" if name in record["ours"] else name
            lines.append(f"| {' | '.join([label, time, *ratios, shown])} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def growth_table(records: list[Record]) -> str:
    """Exponents of time, and of memory in brackets, by family and size."""
    axes = list(dict.fromkeys(record["what"] for record in records))
    lines = [f"| time (memory) grows with the power | {' | '.join(axes)} |", "|---" * (len(axes) + 1) + "|"]
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        sizes, times = [int(size) for size in record["candidates"]], list(record["candidates"].values())
        time, memory = (slope(sizes, [entry[key] for entry in times]) for key in ("median", "peak memory, MB"))
        rows.setdefault(record["part"], {})[record["what"]] = f"{time:.2f} ({memory:.2f})"
    rows["the mathematics"] = {record["what"]: str(record["exponent of the mathematics"]) for record in records}
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(row.get(axis, '') for axis in axes)} |" for name, row in rows.items())]
    )


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
            records = records_of(document, figure.parts)
            if records:
                yield (
                    source.with_name(f"{source.stem}{figure.suffix}.png"),
                    [source],
                    lambda f=figure, r=records, d=document: _plots(f.kind)(r, f"{f.title}; {machine_name(d)}", **f.options),
                )
    sources = sorted({folder / f"{row.package}-cpu.json" for row in HEADLINES})
    if folder == RESULTS:
        rows = [(row.label, row.factors()) for row in HEADLINES]
        yield folder / "overview-cpu.png", sources, lambda: _plots("overview")(rows, machine_name(load(sources[0])))


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
    stale = [path for path, sources, _ in pictures(folder) if drawn_from(path) != digest(sources)]
    if folder == RESULTS:
        stale += [path for path in READMES if tables(path.read_text()) != path.read_text()]
    return stale


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
