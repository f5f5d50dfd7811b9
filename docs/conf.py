"""Sphinx configuration of the documentation site, built by `scripts/build_docs`.

Why Sphinx: docs/decisions/0022-documentation.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs/_ext"))

import site_pages  # noqa: E402  # what is generated: docs/_ext/site_pages.py

import edge_centernet  # noqa: E402

project = "edge-centernet"
author = "The edge-centernet authors"
version = release = edge_centernet.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 4  # headings get the anchors that GitHub gives them: links work in both places
exclude_patterns = ["_static"]

# Docstrings: `names` stand in single backticks; site_pages.py makes the rest ready.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "edge-centernet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}  # no link to a host of the sources

setup = site_pages.setup
