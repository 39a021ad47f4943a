"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generated_pages import write_pages  # noqa: E402

project = "Fragmesh"
author = "the Fragmesh authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

html_theme = "furo"
html_title = "Fragmesh"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_copyright = False
smartquotes = False  # they turn "WWW '25" around

# Before Sphinx looks for source files.
write_pages(HERE)
