"""Configuration of the documentation site: `make docs` builds it in docs/_build/html, without network."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "workflow"), str(DOCS)]

import generate  # noqa: E402

import pipeline_lib  # noqa: E402

generate.write_all()

project = "bordure"
author = "bordure developers"
copyright = "2026, bordure developers"
version = release = pipeline_lib.__version__

extensions = [
    "api_links",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_generated"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # links to headings of other pages are checked, too

# Docstrings
default_role = "code"  # single backticks are code; `api_links` makes links of names of documented objects
add_module_names = False
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what torch says of `forward` is not about our networks
autodoc_typehints = "none"  # numpydoc's sections have the types, with shapes and units
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
maximum_signature_line_length = 88

# What `--nitpicky` cannot know
nitpick_ignore_regex = [
    # Base classes and types from libraries without an inventory here: inventories would need the network.
    (r"py:.*", r"(torch|numpy|np|pandas|pd|h5py|argparse)\..*"),
]
suppress_warnings = [
    # A docstring may list a reference without a mark in the text, as numpydoc's sections often do.
    "ref.citation",
]

# Pages
html_theme = "pydata_sphinx_theme"
html_title = f"bordure {version}"
html_static_path = ["_static"]
html_css_files = ["bordure.css"]
html_js_files = ["bordure.js"]
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_sidebars: dict[str, list[str]] = {"index": []}
html_theme_options = {
    "logo": {"text": "bordure"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
