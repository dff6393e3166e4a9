"""Runs the tests of the packages that ours replace, with ours in their place: `nox -s upstream -- FOLDER [SUITE ...]`.

FOLDER has a checkout of each upstream, under the name that suites.py gives it; `--fetch` makes those that are missing with git.
Only the tests are copied, so that `import sru` finds ours. A test may do otherwise if suites.py says why; any other failure, and
a difference that there is not, is an error. Reasons are printed.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from suites import SUITES, Suite

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def clone(suite: Suite, sources: Path) -> list[str]:
    """The command that fetches its sources."""
    url = f"https://github.com/{suite.repository}"
    return ["git", "clone", "--quiet", "--depth", "1", "--branch", suite.branch, url, str(sources)]


def outcomes(suite: Suite, sources: Path) -> dict[str, str]:
    """Runs a suite: test -> "passed", "skipped", or how it failed."""
    copy = ROOT / "build" / "upstream" / suite.name
    shutil.rmtree(copy, ignore_errors=True)
    for name in suite.tests:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (sources / name).is_dir():
            shutil.copytree(sources / name, target)
        else:
            shutil.copyfile(sources / name, target)
    report = copy / "report.xml"
    files = [str(copy / name) for name in suite.tests if not name.endswith(("conftest.py", "__init__.py", "_impl.py"))]
    options = ["-q", "-p", "names", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={copy}", f"--junitxml={report}"]
    environment = {
        **os.environ,
        "RNNKIT_UPSTREAM": suite.name,
        "RNNKIT_UPSTREAM_SOURCES": str(sources),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(copy), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", *options, "-k", suite.select, *files]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(f"{suite.name}: its tests could not be run:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}")
    (copy / "log").write_text(done.stdout)
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = any(child.tag == "skipped" for child in case)
        outcome = (bad[0].get("message") or "failed").split("\n")[0] if bad else "skipped" if skipped else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return found


def judge(suite: Suite, found: dict[str, str]) -> list[str]:
    """What is wrong: failures that suites.py does not explain, and explanations without a failure."""
    failed = [test for test, outcome in found.items() if outcome not in ("passed", "skipped")]
    matching = {pattern: fnmatch.filter(failed, f"*::{pattern}") for pattern in suite.different}
    explained = {test for tests in matching.values() for test in tests}
    wrong = [f"{test}: {found[test]}" for test in failed if test not in explained]
    wrong += [f"{pattern}: is to differ, and does not" for pattern, tests in matching.items() if not tests]
    counts = [sum(outcome == kind for outcome in found.values()) for kind in ("passed", "skipped")]
    print(
        f"{suite.name}: {counts[0]} passed, {counts[1]} skipped, {len(explained)} differ on purpose, {len(wrong)} wrong",
        flush=True,
    )
    for pattern, tests in matching.items():
        print(f"  {pattern} ({len(tests)}): {suite.different[pattern]}")
    return wrong if found else [f"{suite.name}: no test was found"]


def main() -> None:
    """Parses the options, runs and reports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the upstreams' sources are")
    parser.add_argument("suites", nargs="*", help="their names; default: all")
    parser.add_argument("--fetch", action="store_true", help="clone those that are missing")
    options = parser.parse_args()
    unknown = set(options.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"unknown suites {sorted(unknown)}; there are {[suite.name for suite in SUITES]}")
    wrong = []
    for suite in SUITES:
        if options.suites and suite.name not in options.suites:
            continue
        sources = options.folder.resolve() / suite.name
        if not sources.exists() and options.fetch:
            subprocess.run(clone(suite, sources), check=True)
        if sources.exists():
            wrong += judge(suite, outcomes(suite, sources))
        else:
            wrong.append(f"{suite.name}: no sources; {' '.join(clone(suite, sources))}")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
