"""Makes the READMEs' tables and the overview from results/*.json: nobody edits a number by hand.

    python benchmarks/publish.py            writes them (drawing needs matplotlib)
    python benchmarks/publish.py --check    only tells whether they are those of the JSON; needs nothing but Python

A table stands in a README between <!-- benchmarks/publish.py: NAME --> and <!-- end -->. The overview carries the numbers that
it was drawn from in its metadata.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import struct
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OVERVIEW = RESULTS / "overview-cpu.png"


@dataclasses.dataclass(frozen=True)
class Headline:
    """One row of the root README: a training step of ours beside its limit and its peers."""

    package: str
    what: str
    keys: tuple[str, ...]  # of the candidates in the package's JSON
    ours: str
    limit: str | None
    peers: dict[str, str]  # names in the JSON -> names in print

    def times(self) -> dict[str, float]:
        """Seconds by candidate."""
        found: Any = load(self.package)
        for key in self.keys:
            found = found[key]
        return {name: t["median"] for name, t in found.items()}


HEADLINES = (
    Headline(
        "mingru",
        "minGRU layer, (B, T, D) = (8, 1024, 256)",
        ("layer", "training step"),
        "minGRU",
        "Linear alone",
        {"nn.GRU": "nn.GRU", "minGRU-pytorch": "minGRU-pytorch"},
    ),
    Headline(
        "qrnn",
        "QRNN layer, (T, B, H) = (105, 20, 640)",
        ("layer, window 1", "training step"),
        "QRNN",
        "Linear alone",
        {"nn.LSTM": "nn.LSTM"},
    ),
    Headline(
        "sru",
        "two SRU layers, (T, B, D) = (128, 32, 512)",
        ("stack", "training step"),
        "SRU",
        "products alone",
        {"nn.LSTM": "nn.LSTM", "sru 2.6.0": "sru 2.6.0"},
    ),
    Headline(
        "ligru",
        "Li-GRU layer, (B, T, F, H) = (8, 400, 256, 512)",
        ("layers", "H = 512", "training step"),
        "LiGRU",
        "products alone",
        {"nn.LSTM": "nn.LSTM", "nn.GRU": "nn.GRU", "SpeechBrain LiGRU": "SpeechBrain"},
    ),
    Headline(
        "rnnt_loss",
        "RNN-T loss of logits, (B, T, S, C) = (8, 200, 50, 500)",
        ("seconds", "exact loss of logits"),
        "rnnt_loss",
        None,
        {"fast_rnnt": "fast_rnnt", "torchaudio": "torchaudio"},
    ),
    Headline(
        "rnnt_loss",
        "pruned RNN-T step, the same with a joiner of 512",
        ("seconds", "pruned step"),
        "rnnt_loss, logits kept",
        "products alone",
        {"fast_rnnt": "fast_rnnt"},
    ),
)


def load(package: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{package}-cpu.json").read_text())


def overview_table() -> str:
    """Of the root README."""
    lines = ["| forward and backward, float32 | ours | its limit | others |", "|---|---|---|---|"]
    for row in HEADLINES:
        times = row.times()
        ours = times[row.ours]
        limit = f"{ours / times[row.limit]:.2f} x {row.limit}" if row.limit else ""
        others = ", ".join(f"{name} {times[key] / ours:.1f} x ours" for key, name in row.peers.items())
        lines.append(f"| [{row.package}](packages/{row.package}): {row.what} | {1e3 * ours:.1f} ms | {limit} | {others} |")
    return "\n".join(lines)


def losses_table() -> str:
    """Of rnnt_loss's README."""
    result = load("rnnt_loss")
    lines = ["| | | time | peak memory beside the inputs |", "|---|---|---|---|"]
    for kind in ("exact loss of logits", "smoothed", "pruned step"):
        for name, t in result["seconds"][kind].items():
            memory = result["peak memory, MB"].get(kind, {}).get(name)
            lines.append(f"| {kind} | {name} | {1e3 * t['median']:.1f} ms | {f'{memory:.0f} MB' if memory else ''} |")
    return "\n".join(lines)


TABLES = {"overview": (ROOT / "README.md", overview_table), "losses": (ROOT / "packages/rnnt_loss/README.md", losses_table)}


def with_table(name: str) -> tuple[Path, str, str]:
    """The file, its text, and that text with the table of the JSON."""
    path, make = TABLES[name]
    text = path.read_text()
    head, rest = text.split(f"<!-- benchmarks/publish.py: {name} -->\n")
    return path, text, f"{head}<!-- benchmarks/publish.py: {name} -->\n{make()}\n{rest[rest.index('<!-- end -->') :]}"


def overview_numbers() -> dict[str, dict[str, float]]:
    """Times of each headline's candidates, over ours."""
    found = {}
    for row in HEADLINES:
        times = row.times()
        names = {**({row.limit: row.limit} if row.limit else {}), **row.peers}
        found[row.what] = {name: round(times[key] / times[row.ours], 3) for key, name in names.items()}
    return found


def draw_overview() -> None:
    """How many times as long as ours the others take."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    numbers, limits = overview_numbers(), {row.limit for row in HEADLINES}
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.62 * len(numbers)), layout="constrained")
    axis.axvline(1, color="#c8553d", linewidth=3)
    for y, others in enumerate(reversed(numbers.values())):
        axis.axhline(y, color="#e4e4e4", linewidth=1, zorder=0)
        for i, (name, factor) in enumerate(sorted(others.items(), key=lambda item: item[1])):
            axis.plot(factor, y, "D" if name in limits else "o", color="#8a8a8a" if name in limits else "#47708f")
            place: dict[str, Any] = {
                "xytext": (0, 7 if i % 2 == 0 else -8),
                "va": "bottom" if i % 2 == 0 else "top",
                "ha": "center",
            }
            if name in limits:
                place = {"xytext": (-7, 0), "va": "center", "ha": "right"}
            text = f"{factor:.2f}" if name in limits else f"{name} {factor:.1f}"
            axis.annotate(text, (factor, y), textcoords="offset points", fontsize=8, **place)
    axis.set(xscale="log", xlim=(0.6, 40), ylim=(-0.6, len(numbers) - 0.4), xlabel="time of a training step, ours = 1")
    axis.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axis.set_yticks(range(len(numbers)), [what.replace(", (", "\n(", 1) for what in reversed(numbers)], fontsize=8)
    axis.tick_params(left=False)
    axis.spines[["top", "right", "left"]].set_visible(False)
    machine = load("rnnt_loss")["hardware"]
    axis.set_title(
        f"{machine['cores']} cores of an {machine['cpu']}, float32; diamonds: its matrix products alone", fontsize=9
    )
    figure.savefig(OVERVIEW, dpi=150, metadata={"Description": json.dumps(numbers)})


def drawn_from(picture: Path) -> str:
    """The description in a PNG's metadata."""
    data, at = picture.read_bytes(), 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        keyword, _, text = data[at + 8 : at + 8 + length].partition(b"\0")
        if kind == b"tEXt" and keyword == b"Description":
            return text.decode("latin-1")
        at += 12 + length
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for name in TABLES:
        path, text, wanted = with_table(name)
        if options.check and text != wanted:
            stale.append(f"the table {name} in {path.relative_to(ROOT)}")
        elif not options.check:
            path.write_text(wanted)
    if not options.check:
        draw_overview()
    elif not OVERVIEW.exists() or drawn_from(OVERVIEW) != json.dumps(overview_numbers()):
        stale.append(str(OVERVIEW.relative_to(ROOT)))
    if stale:
        sys.exit(f"not those of benchmarks/results/*.json: {', '.join(stale)}; run python benchmarks/publish.py")


if __name__ == "__main__":
    main()
