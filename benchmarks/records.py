"""What a results file holds, and what it is called in print. Nothing here needs more than Python."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Document = dict[str, Any]  # results/<name>-<device>.json: hardware, versions, peers and groups
Record = dict[str, Any]  # a group of candidates, as suite.Group.measure leaves it


def load(path: Path) -> Document:
    document: Document = json.loads(path.read_text())
    return document


def records_of(document: Document, parts: tuple[str, ...]) -> list[Record]:
    """Those of some parts; of all, if none are named."""
    return [record for record in document["groups"] if not parts or record["part"] in parts]


def title_of(record: Record) -> str:
    """What was measured, and of which sizes."""
    return f"{record['what']}, {sizes_of(record)}"


def sizes_of(record: Record) -> str:
    """Sizes and dtype, and the threads if they are not all."""
    threads = f", {record['threads']} thread" if record["threads"] else ""
    return f"{shape_of(record)}, {record['dtype']}{threads}"


def shape_of(record: Record) -> str:
    """Sizes alone."""
    names, values = (", ".join(map(str, column)) for column in (record["sizes"], record["sizes"].values()))
    return f"({names}) = ({values})"


def machine_name(document: Document) -> str:
    """The GPU, or the CPU and its cores in use."""
    hardware = document["hardware"]
    name: str = hardware.get("gpu") or f"{hardware['threads']} cores of an {hardware['cpu']}"
    return name


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the logarithms of the larger half: below it, what does not grow still counts."""
    half = len(x) // 2
    logs = [[math.log(value) for value in values[half:]] for values in (x, y)]
    return statistics.linear_regression(*logs).slope
