"""The documentation site: `pip install '.[docs]'`, then `python -m sphinx -W --keep-going docs docs/_build/html`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs/_ext"), str(ROOT / "bench"), str(ROOT / "tools/common")]

from fusedrnn import __version__  # noqa: E402

project = "fusedrnn"
version = release = __version__
copyright = "the authors of fusedrnn"
html_title = f"fusedrnn {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "made_pages"]
exclude_patterns = ["_build", "_ext"]
myst_heading_anchors = 4  # as the repository's own site has them

default_role = "py:obj"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
ALIASES = "Activation Array Integers Lengths Mask Masks Maybe Resets Start States"  # shown by their names
autodoc_type_aliases = {name: name for name in ALIASES.split()}
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
linkcheck_timeout = 20
