"""The documentation site: `./dev site` builds it into docs/_build/html."""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "packages" / "celery-postgres"
sys.path[:0] = [str(PACKAGE / "src"), str(DOCS / "_ext")]

import celery_postgres  # noqa: E402

_declared = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]

project = "celery-postgres"
author = "the authors of celery-postgres"
project_copyright = author
version = release = celery_postgres.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "beyond_docs",
    "command_line",
]
exclude_patterns = ["_build", "_parts", "_ext", "benchmarks/raw"]
root_doc = "index"
source_suffix = {".md": "markdown"}
# In docstrings `name` is code, as in Markdown.
default_role = "literal"
# Dashes alone: quotes stay as they are typed.
smartquotes_action = "D"

nitpicky = True
# There is no network while the site is built, so other projects' names lead nowhere; nor has the site a page for the
# package's rooms, which may change with any release.
_rooms = "broker|consumer|database|readmodel|results"
nitpick_ignore_regex = [("py:.*", rf"(?!celery_postgres\.).*|celery_postgres\.({_rooms})\..*")]

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4
# The anchors of the pages in the repository are GitHub's.
myst_heading_slug_func = "beyond_docs.anchor"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# The pages in the repository that the site does not have: where they are, once the package names an address.
repository = _declared.get("urls", {}).get("Source", "")

html_theme = "furo"
html_title = f"celery-postgres {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
linkcheck_anchors = False
