"""Plants the faults of faults.py one at a time, in a copy of the sources, and tells which the tests find: `nox -s mutants`.

Kernels are compiled as for quick rounds (RNNKIT_QUICK): without a GPU, CUDA's emulated, and of the CPU's instruction sets one.
Writes results.json, and the table in README.md, if all faults were planted; `-k WORD` plants those whose name or file has it,
`--resume` those that an interrupted run did not come to, or that its tests did not find.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

from faults import FAULTS, Fault

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 600  # seconds that the tests of a family may take: more, and they hang


def copy_sources(tree: Path) -> None:
    """What git knows, and what it would take; files that did not change are left as they are, and need no compilation."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if not source.exists() or name.endswith(".png"):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            if not target.is_symlink():
                target.symlink_to(os.readlink(source))
        elif not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)


class Tree:
    """A copy of the sources, with libraries compiled in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sources = [str(path) for path in sorted(folder.glob("packages/*/src"))]
        self.environment = {**os.environ, "RNNKIT_QUICK": "1", "PYTHONPATH": os.pathsep.join(sources)}

    def compile(self, families: tuple[str, ...]) -> None:
        for family in families:
            folder = self.folder / "packages" / family
            if (folder / "setup.py").exists():
                command = [sys.executable, "setup.py", "build_ext", "--inplace"]
                done = subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{family} does not compile:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")

    def test(self, family: str) -> tuple[str | None, float]:
        """The first test that failed, if one did, and the seconds until then."""
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", f"tests/{family}", "-x", "-q", "-n", "auto", f"--junitxml={report}"]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return "(hangs)", time.perf_counter() - start
        seconds = time.perf_counter() - start
        if done.returncode == 0:
            return None, seconds
        if report.exists():
            for case in xml.etree.ElementTree.parse(report).iter("testcase"):
                if any(child.tag in ("failure", "error") for child in case):
                    return f"{case.get('classname')}::{case.get('name')}", seconds
        raise RuntimeError(f"tests/{family} could not be run:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def plant(fault: Fault, tree: Tree) -> dict[str, Any]:
    """What the tests say of one fault; the file is as it was afterwards."""
    path = tree.folder / fault.file
    text = path.read_text()
    faulty = text
    for old, new in fault.edits:
        if text.count(old) != 1:
            raise ValueError(f"{fault.name}: stands {text.count(old)} times in {fault.file}: {old}")
        faulty = faulty.replace(old, new)
    result: dict[str, Any] = {"fault": fault.name, "file": fault.file, "suites": list(fault.suites)}
    path.write_text(faulty)
    try:
        tree.compile(fault.suites)
        for family in fault.suites:
            result["test"], result["seconds"] = tree.test(family)
            if result["test"] is not None:
                break
    finally:
        path.write_text(text)
    result["seconds"] = round(result["seconds"], 1)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """In Markdown, by file."""
    rows = ["| file | fault | found by | s |", "|---|---|---|---|"]
    for row in sorted(results, key=lambda row: str(row["file"])):
        where = row["test"].removeprefix("tests.").replace("|", "\\|") if row["test"] else "**nothing**"
        file = row["file"].removeprefix("packages/").replace("common/src/rnnkit_common/include/rnnkit/", "common: ")
        rows.append(f"| {file} | {row['fault']} | {where} | {row['seconds']:.0f} |")
    count = sum(row["test"] is not None for row in results)
    return f"{count} of {len(results)} faults are found.\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    """Parses the options, plants and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-k", metavar="WORD", default="", help="only faults whose name or file has it")
    parser.add_argument("--tree", type=Path, default=ROOT / "build" / "mutants", help="where to copy the sources to")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run in the same tree has found")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.k in fault.name or options.k in fault.file]
    copy_sources(options.tree)
    tree = Tree(options.tree)
    suites = sorted({suite for fault in faults for suite in fault.suites})
    tree.compile(tuple(suites))
    whole = {}
    for suite in suites:
        failed, whole[suite] = tree.test(suite)
        print(f"without a fault, tests/{suite}: {failed or 'passed'} in {whole[suite]:.0f} s", flush=True)
        if failed is not None:
            sys.exit("faults can only be found by tests that pass without them")
    record = tree.folder / "results.json"
    earlier = json.loads(record.read_text())["faults"] if options.resume and record.exists() else []
    known = {(row["file"], row["fault"]): row for row in earlier if row["test"] is not None}
    results: list[dict[str, Any]] = []
    for i, fault in enumerate(faults):
        results.append(known.get((fault.file, fault.name)) or plant(fault, tree))
        row = results[-1]
        print(
            f"{i + 1}/{len(faults)} {fault.file}: {fault.name}: {row['test'] or 'NOT FOUND'} ({row['seconds']} s)",
            flush=True,
        )
        record.write_text(json.dumps({"seconds": whole, "faults": results}, indent=1) + "\n")
    print(table(results))
    if len(faults) == len(FAULTS):
        shutil.copyfile(record, HERE / "results.json")
        intro = (HERE / "README.md").read_text().split("<!-- table -->")[0]
        (HERE / "README.md").write_text(intro + "<!-- table -->\n" + table(results))


if __name__ == "__main__":
    main()
