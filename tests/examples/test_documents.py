"""What is written is run: the code in READMEs and on the site's pages, and the examples in docstrings."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import pkgutil
import unittest
from pathlib import Path

import pytest
import torch
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted(ROOT.glob("docs/*.md"))]
WITH_CODE = [path for path in DOCUMENTS if "```python" in path.read_text()]
PACKAGES = ["ligru", "mingru", "qrnn", "rnnt_loss", "sru"]
MODULES = [
    f"{package}.{module.name}"
    for package in PACKAGES
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
    if not module.name.startswith("_")
]


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_in_documents_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first block to the last, as one program; what is for a GPU, where there is one (a comment before it says so)."""
    monkeypatch.chdir(tmp_path)
    examples = list(Document.parse(str(path), PythonCodeBlockParser(), SkipParser()))
    for example in examples:
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_give_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch}).failed == 0


def test_every_package_has_examples_in_docstrings() -> None:
    finder = doctest.DocTestFinder()
    with_examples = {
        name.partition(".")[0] for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples
    }
    assert with_examples == set(PACKAGES)
