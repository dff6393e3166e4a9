"""The documentation site: `nox -s docs` builds it into build/docs, of the READMEs as they stand, and of the docstrings.

Its root is the repository's, so that a README's links lead to the same places on the site.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxTranslator

project = "rnnkit"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
html_extra_path = ["index.html"]  # leads there
include_patterns = ["README.md", "docs/**.md", "CONTRIBUTING.md", "packages/**.md", "benchmarks/README.md", "tests/**.md"]
exclude_patterns = [".*", "build", "dist", "peers", "**/build", "docs/contents.md"]

html_theme = "furo"
html_title = "rnnkit"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
pygments_style = "tango"

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the signature has them
default_role = "code"
napoleon_use_ivar = True
napoleon_custom_sections = [("Shape", "params_style"), ("Inputs", "params_style")]


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """The README has no table of contents, because only the site has pages."""
    if page == root_doc:
        source[0] += Path(__file__).with_name("contents.md").read_text()


def write_inline(translator: SphinxTranslator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_block(translator: SphinxTranslator, node: nodes.math_block) -> None:
    formula = node.astext().replace("{aligned}", "{align*}")  # which latex2mathml knows; GitHub knows the other
    translator.body.append(f'<div class="math">{convert(formula, display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    # formulas are MathML: browsers draw them by themselves, and nothing is fetched
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
