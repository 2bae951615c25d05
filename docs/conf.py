"""Configuration of the site, which `make docs` builds."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "Headstart"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
copyright = "the Headstart authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docs.extensions.reference",
]
exclude_patterns = ["extensions"]

myst_enable_extensions = ["colon_fence"]
# Links to headings are checked.
myst_heading_anchors = 3

# Quotes and hyphens stay as they are written: `--json` is an option.
smartquotes = False
# Docstrings are plain text, with code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 100
napoleon_use_ivar = True
# Names of types in the signatures are plain text: the documentation of other packages cannot be reached when a page is
# built, and the classes of Headstart are documented under their public names.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = "Headstart"
html_copy_source = html_show_sourcelink = False

linkcheck_timeout = 20
