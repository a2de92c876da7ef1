"""The pages as a site: ``pip install -e ".[docs]" && python -m sphinx docs site``, then open ``site/index.html``."""

from pathlib import Path

import snnpipe

project = "snnpipe"
author = "the authors of snnpipe"
version = release = snnpipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
html_theme = "furo"
html_title = f"snnpipe {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
exclude_patterns = ["_build"]
#: Pages link to files beside the pages (``../CHANGELOG.md``, scripts), which are no pages.
suppress_warnings = ["myst.xref_missing", "docutils"]  # docutils minds "*inputs, **named:"


def setup(app: object) -> None:
    """Write the list of public names that ``reference.md`` includes: it is the package's own, so it is complete."""
    names = sorted(name for name in snnpipe.__all__ if not name.isupper() and name != "recipes")
    lines = [f".. autoclass:: snnpipe.{name}\n   :members:\n" if name[0].isupper() else
             f".. autofunction:: snnpipe.{name}\n" for name in names]  # fmt: skip
    lines += [f".. autofunction:: snnpipe.recipes.{name}\n" for name in snnpipe.recipes.RECIPES]
    Path(__file__).with_name("_build").mkdir(exist_ok=True)
    (Path(__file__).with_name("_build") / "names.rst").write_text("\n".join(lines))
