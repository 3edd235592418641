"""Sphinx: how the pages that `build.py` lays out become the site."""

from __future__ import annotations

import html

import ziamath
from docutils import nodes
from sphinx.application import Sphinx

project = "vitexplain_utils"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["README.md", "extra", "truth-*.md"]
default_role = "py:obj"  # `name` in a docstring: a link where it is documented, else code
nb_execution_mode = "off"  # the committed outputs
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]  # text/plain of an output is no code

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
add_module_names = False
napoleon_use_ivar = True  # a class's attributes as one list
napoleon_attr_annotations = False

html_theme = "furo"
html_title = "vitexplain_utils"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_extra_path = ["../build/site-pages/extra"]
html_math_renderer = "ziamath"
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_use_index = html_domain_indices = False

ziamath.config.math.color = "currentColor"  # dark on light, or light on dark
ziamath.config.svg2 = False  # each formula has its own letters: nothing that two could share


def draw(self, node: nodes.Element) -> None:
    """A formula as a picture in the page: no script, no font, the same in every browser."""
    source = node.astext()
    block = isinstance(node, nodes.math_block)
    formula = ziamath.Latex(source, size=19 if block else 17, inline=not block)
    says = f'role="img" aria-label="{html.escape(source)}"'
    svg = formula.svg().replace(
        "<svg ", f'<svg {says} style="vertical-align: {formula.getyofst():.1f}px" ', 1
    )
    self.body.append(f'<div class="math">{svg}</div>' if block else svg)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas are drawn by ziamath."""
    app.add_html_math_renderer("ziamath", (draw, None), (draw, None))
