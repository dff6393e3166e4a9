"""The kinds of pictures. Each takes records of a results file and a title, and returns a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from records import Record, sizes_of, slope, title_of

OURS, OTHERS, LIMIT = (
    ("#c8553d", "#e39a7b", "#8c2f1b"),
    ("#47708f", "#9db4c8", "#6a8f6b", "#b09ac0", "#2b2f52", "#c2a14d"),
    "#8a8a8a",
)


def bars(records: Sequence[Record], title: str) -> Figure:
    """Two panels for each record: times with their quartiles, and peak memory."""
    memory = any("peak memory, MB" in entry for record in records for entry in record["candidates"].values())
    panels, beside = (2 if memory else 1), (2 if len(records) > 3 else 1)
    rows = math.ceil(len(records) / beside)
    height = rows * (0.8 + 0.21 * max(len(record["candidates"]) for record in records))
    shape = (2.2 + 3 * panels * beside, 0.4 + height)
    figure, axes = plt.subplots(rows, panels * beside, figsize=shape, layout="constrained", squeeze=False)
    for axis in axes.flat[panels * len(records) :]:
        axis.set_visible(False)
    for i, record in enumerate(records):
        candidates, (left, *right) = record["candidates"], axes.flat[panels * i : panels * (i + 1)]
        names = list(candidates)[::-1]
        colors = [OURS[0] if n in record["ours"] else LIMIT if n == record["limit"] else OTHERS[1] for n in names]
        values = [1e3 * candidates[n]["median"] for n in names]
        spread = [
            [1e3 * abs(candidates[n].get(q, candidates[n]["median"]) - candidates[n]["median"]) for n in names]
            for q in ("quartile1", "quartile3")
        ]
        ends = [value + above for value, above in zip(values, spread[1], strict=True)]
        left.barh(names, values, xerr=spread, color=colors, error_kw={"elinewidth": 1, "ecolor": "#333333"})
        for y, (value, end) in enumerate(zip(values, ends, strict=True)):
            left.annotate(_short(value), (end, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
        left.set(xlim=(0, 1.2 * max(ends)))
        left.set_title(f"{title_of(record).replace(', (', chr(10) + '(', 1)}; ms", fontsize=7)
        for axis in right:
            megabytes = [candidates[n].get("peak memory, MB") or 0 for n in names]
            axis.bar_label(axis.barh(names, megabytes, color=colors), map(_short, megabytes), padding=3, fontsize=7)
            axis.set(xlim=(0, 1.2 * max(*megabytes, 1e-9)), yticks=[])
            axis.set_title("peak memory, MB", fontsize=7)
    _plain(axes)
    figure.suptitle(title, fontsize=9)
    return figure


def lines(records: Sequence[Record], title: str, *, x: str, per: str | None = None) -> Figure:
    """A row for each kind of run: time, ours' gain, and peak memory against the size `x`; `per`: time of each unit of that size."""
    kinds = list(dict.fromkeys((record["what"], record["dtype"]) for record in records))
    figure, axes = plt.subplots(len(kinds), 3, figsize=(10.5, 0.5 + 3 * len(kinds)), layout="constrained", squeeze=False)
    for (left, middle, right), (what, dtype) in zip(axes, kinds, strict=True):
        row = [record for record in records if (record["what"], record["dtype"]) == (what, dtype)]
        names = list(dict.fromkeys(name for record in row for name in record["candidates"]))
        others = iter(OTHERS * 2)
        for name in names:
            has = [record for record in row if name in record["candidates"]]
            times = [record["candidates"][name] for record in has]
            sizes = [record["sizes"][x] for record in has]
            unit = [1e6 / record["sizes"][per] if per else 1e3 for record in has]
            ours, limit = name in row[0]["ours"], name == row[0]["limit"]
            color = OURS[row[0]["ours"].index(name)] if ours else LIMIT if limit else next(others)
            style = {"color": color, "marker": "o" if ours else "s", "markersize": 3, "linestyle": "--" if limit else "-"}
            left.plot(sizes, [u * f["median"] for u, f in zip(unit, times, strict=True)], label=name, **style)
            if "over ours" in times[0]:
                middle.plot(sizes, [f["over ours"] for f in times], **style)
            right.plot(sizes, [f["peak memory, MB"] or math.nan for f in times], **style)
        left.set(ylabel="us" if per else "ms", title=f"{what}, {dtype}" + (f": time / {per}" if per else ": time"))
        middle.set(title=f"times {row[0]['ours'][0]}'s")
        right.set(ylabel="MB", title="peak memory")
        ticks = sorted({record["sizes"][x] for record in row})
        for axis in (left, middle, right):
            axis.set(xscale="log", yscale="log", xlabel=x)
            axis.minorticks_off()
            axis.set_xticks(ticks[:: math.ceil(len(ticks) / 7)], [str(t) for t in ticks[:: math.ceil(len(ticks) / 7)]])
            _decades(axis)
            axis.title.set_fontsize(8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8), frameon=False, fontsize=8)
    _plain(axes)
    fixed = {name: size for name, size in records[0]["sizes"].items() if len({g["sizes"][name] for g in records}) == 1}
    figure.suptitle(f"{title}\n{', '.join(f'{name} = {size}' for name, size in fixed.items())}", fontsize=9)
    return figure


def grid(records: Sequence[Record], title: str) -> Figure:
    """A table of the first peer's time over ours, by batch and length, for each dtype."""
    dtypes = list(dict.fromkeys(record["dtype"] for record in records))
    batches, lengths = (sorted({record["sizes"][name] for record in records}) for name in ("B", "T"))
    width, height = 1.1 + 0.9 * len(lengths), 0.9 + 0.42 * len(batches)
    figure, axes = plt.subplots(len(dtypes), 1, figsize=(width, height * len(dtypes)), layout="constrained", squeeze=False)
    for axis, dtype in zip(axes.flat, dtypes, strict=True):
        factors = [[math.nan] * len(lengths) for _ in batches]
        for record in (record for record in records if record["dtype"] == dtype):
            (peer,) = (name for name in record["candidates"] if name not in (*record["ours"], record["limit"]))
            row, column = batches.index(record["sizes"]["B"]), lengths.index(record["sizes"]["T"])
            factors[row][column] = record["candidates"][peer]["over ours"]
        axis.imshow(factors, cmap="Oranges", aspect="auto", vmin=0, vmax=2.5 * max(map(max, factors)))
        axis.set_xticks(range(len(lengths)), [f"T = {t}" for t in lengths])
        axis.set_yticks(range(len(batches)), [f"B = {b}" for b in batches])
        axis.tick_params(length=0)
        for i, values in enumerate(factors):
            for j, value in enumerate(values):
                axis.text(j, i, f"{value:.1f}x", ha="center", va="center")
        axis.spines[:].set_visible(False)
        axis.set_title(dtype, fontsize=8)
    figure.suptitle(title.replace("; ", "\n"), fontsize=8)
    return figure


def shares(records: Sequence[Record], title: str) -> Figure:
    """The limit's time over ours: a panel for each kind of run, a bar for each size and dtype."""
    kinds = list(dict.fromkeys((record["part"], record["what"]) for record in records))
    rows = list(dict.fromkeys(sizes_of(record) for record in records))
    figure, axes = plt.subplots(
        1,
        len(kinds),
        figsize=(1.8 + 2.2 * len(kinds), 1 + 0.2 * len(rows)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for axis, (part, what) in zip(axes.flat, kinds, strict=True):
        shares = {
            sizes_of(g): 1 / g["candidates"][g["ours"][0]]["over limit"]
            for g in records
            if (g["part"], g["what"]) == (part, what)
        }
        shown = [row for row in reversed(rows) if row in shares]
        axis.bar_label(
            axis.barh(shown, [100 * shares[row] for row in shown], color=OURS[0]),
            [f"{100 * shares[row]:.0f} %" for row in shown],
            padding=2,
            fontsize=7,
        )
        axis.axvline(100, color=LIMIT, linewidth=1)
        axis.set(xlim=(0, 1.25 * max(100, *(100 * share for share in shares.values()))))
        axis.set_title(f"{part}: {what}", fontsize=7)
        axis.tick_params(labelsize=7)
    _plain(axes)
    figure.suptitle(title.replace("; ", "\n"), fontsize=9)
    return figure


def growth(records: Sequence[Record], title: str) -> Figure:
    """A row for each part and a panel for each size that was varied: time and memory against it, log-log, with exponents."""
    parts = {
        part: [record for record in records if record["part"] == part] for part in dict.fromkeys(g["part"] for g in records)
    }
    columns = max(map(len, parts.values()))
    figure, axes = plt.subplots(
        len(parts), columns, figsize=(2.6 * columns, 2.1 * len(parts)), layout="constrained", squeeze=False
    )
    for row, (part, panels) in zip(axes, parts.items(), strict=True):
        for axis in row[len(panels) :]:
            axis.set_visible(False)
        for axis, record in zip(row, panels, strict=False):
            name = record["what"]
            sizes = [int(size) for size in record["candidates"]]
            seconds = [1e3 * entry["median"] for entry in record["candidates"].values()]
            memory = [max(entry["peak memory, MB"] or 0, 1e-2) for entry in record["candidates"].values()]
            axis.loglog(sizes, seconds, "o-", color=OURS[0], markersize=3)
            axis.loglog(sizes, memory, "s--", color=OTHERS[1], markersize=3)
            exponents = f"time ~ {name}^{slope(sizes, seconds):.2f}\nmemory ~ {name}^{slope(sizes, memory):.2f}"
            axis.text(0.04, 0.96, exponents, transform=axis.transAxes, va="top", fontsize=7)
            axis.set_title(f"{part}, {name}; the mathematics: {name}^{record['exponent of the mathematics']}", fontsize=7)
            axis.minorticks_off()
            axis.set_xticks(sizes[::2], [str(size) for size in sizes[::2]])
            _decades(axis)
        row[0].set_ylabel("ms, MB", fontsize=7)
    _plain(axes)
    figure.suptitle(title, fontsize=9)
    return figure


def overview(rows: Sequence[tuple[str, dict[str, float]]], machine: str) -> Figure:
    """How many times as long as ours the others take: a label for each row, and factors by name, of which the first is the limit."""
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.62 * len(rows)), layout="constrained")
    axis.axvline(1, color=OURS[0], linewidth=3)
    for y, (_, factors) in enumerate(reversed(rows)):
        axis.axhline(y, color="#e4e4e4", linewidth=1, zorder=0)
        limit = next(iter(factors))
        for i, (name, factor) in enumerate(sorted(factors.items(), key=lambda item: item[1])):
            axis.plot(factor, y, "D" if name == limit else "o", color=LIMIT if name == limit else OTHERS[0])
            place: dict[str, Any] = {"xytext": (-7, 0), "va": "center", "ha": "right"}
            if name != limit:
                above = i % 2 == 0
                place = {"xytext": (0, 7 if above else -8), "va": "bottom" if above else "top", "ha": "center"}
            text = f"{factor:.2f}" if name == limit else f"{name} {factor:.1f}"
            axis.annotate(text, (factor, y), textcoords="offset points", fontsize=8, **place)
    axis.set(xscale="log", xlim=(0.12, 100), ylim=(-0.6, len(rows) - 0.4), xlabel="time of a training step, ours = 1")
    axis.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20, 50], ["0.2", "0.5", "1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    labels = [label.replace(", (", "\n(", 1) for label, _ in reversed(rows)]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.tick_params(left=False)
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(f"{machine}, float32\ndiamonds: the limit, which is the matrix products or a copy alone", fontsize=9)
    return figure


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _decades(axis: Any) -> None:
    low, high = (math.log10(limit) for limit in axis.get_ylim())
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    axis.set_yticks(
        [t for t in ticks if low <= math.log10(t) <= high], [f"{t:g}" for t in ticks if low <= math.log10(t) <= high]
    )


def _plain(axes: Any) -> None:
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
