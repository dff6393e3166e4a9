"""A family from the template builds and passes its tests; so does RG-LRU, which is the template with other equations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["averages", "rglru"])
def test_a_new_family_builds_and_passes_its_tests(name: str, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "common").symlink_to(ROOT / "packages" / "common")
    for file in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    package, tests = tmp_path / "packages" / name, tmp_path / "tests" / name

    def run(*arguments: str, folder: Path) -> None:
        variables = {"RNNKIT_QUICK": "1", "PYTHONPATH": str(package / "src")}
        command = [sys.executable, *arguments]
        ran = subprocess.run(command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]

    run(str(ROOT / "examples" / "new.py"), name, str(tmp_path), folder=tmp_path)
    if (ROOT / "examples" / name).exists():
        for part, target in (("csrc", package / "csrc"), ("src", package / "src"), ("tests", tests)):
            shutil.copytree(ROOT / "examples" / name / part, target, dirs_exist_ok=True)
    run("setup.py", "-q", "build_ext", "--inplace", "--build-temp", "build/quick", folder=package)
    run("-m", "pytest", f"tests/{name}", "-q", folder=tmp_path)
