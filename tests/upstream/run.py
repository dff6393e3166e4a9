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
    (copy / "log").write_text(done.stdout + done.stderr)
    if done.returncode not in (0, 1) or not report.exists():  # 1: some tests failed
        raise RuntimeError(f"its tests could not be run: pytest returned {done.returncode}, {copy / 'log'} says why")
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        bad = [child for child in case if child.tag in ("failure", "error")]
        skipped = any(child.tag == "skipped" for child in case)
        outcome = (bad[0].get("message") or "failed").split("\n")[0] if bad else "skipped" if skipped else "passed"
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = outcome
    return outcomes


def judge(suite: Suite, outcomes: dict[str, str]) -> list[str]:
    """What is wrong: failures that suites.py does not explain, and explanations that fit other than the tests they are of."""
    failed = [test for test, outcome in outcomes.items() if outcome not in ("passed", "skipped")]
    explained, wrong = set(), []
    for reason in suite.different:
        tests = [test for test in fnmatch.filter(failed, f"*::{reason.tests}") if reason.message in outcomes[test]]
        explained.update(tests)
        if len(tests) != reason.count:
            wrong.append(f"{reason.tests}: {reason.count} are to differ, by {reason.message!r}, and {len(tests)} do")
    wrong += [f"{test}: {outcomes[test]}" for test in failed if test not in explained]
    passed, skipped = ([outcome == kind for outcome in outcomes.values()].count(True) for kind in ("passed", "skipped"))
    if passed == 0:
        wrong.append("no test passed")
    print(
        f"{suite.name}: {passed} passed, {skipped} skipped, {len(explained)} differ on purpose, {len(wrong)} wrong",
        flush=True,
    )
    for reason in suite.different:
        print(f"  {reason.tests} ({reason.count}): {reason.why}")
    return wrong


def results(suite: Suite, sources: Path, fetch: bool) -> list[str]:
    """What is wrong with a suite, be it that it cannot be run."""
    command = clone(suite, sources)
    try:
        if not sources.exists() and fetch:
            subprocess.run(command, check=True)
        if not sources.exists():
            return [f"no sources: {' '.join(command)}"]
        return judge(suite, outcomes(suite, sources))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError, xml.etree.ElementTree.ParseError) as error:
        return [str(error)]


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
        wrong += [f"{suite.name}: {line}" for line in results(suite, sources, options.fetch)]
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
