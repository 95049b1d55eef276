"""How sphinx builds the documentation: `nox -s docs`."""

project = "pycontain"
copyright = "the pycontain authors"  # noqa: A001 (sphinx's name)
html_theme = "furo"
html_title = "pycontain"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "__init__"}
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
