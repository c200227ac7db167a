"""The docs site: `make docs`. Its source is the repository itself, so that pages and links are those of GitHub."""

from __future__ import annotations

from typing import Any

# The navigation, by its headings. A page that is named nowhere here fails the build.
PAGES = {
    "My model, faster": ["docs/replacement", "docs/evidence", "docs/deploy", "docs/latency"],
    "A search from scratch": ["docs/tutorial", "docs/layers", "docs/rewards"],
    "Spend less": ["docs/early_stopping", "docs/inheritance", "docs/one_shot", "docs/audit"],
    "Where it runs": ["docs/engines", "docs/gpus", "docs/cluster"],
    "Reference": ["docs/command_line", "docs/api", "docs/hooks", "docs/runs", "docs/troubleshooting"],
    "How it works": [
        "docs/how_it_works",
        "docs/numbers",
        "docs/benchmarks",
        "docs/alternatives",
        "benchmarks/tables/README",
    ],
    "The project": ["CHANGELOG", "CONTRIBUTING", "docs/releasing"],
}

project, author, copyright = "yolov5-nas", "the yolov5-nas authors", "the yolov5-nas authors, AGPL-3.0"
extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/tables/*.md"]
exclude_patterns = [".*", "runs", "datasets", "site", "build", "dist", "tests", "models", "data", "yolov5_nas"]
html_theme = "furo"
html_title = "yolov5-nas"
html_extra_path = ["site_root"]  # index.html, which leads to README.html
html_show_sphinx = False
html_show_sourcelink = False
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
copybutton_prompt_text = r"\$ "
suppress_warnings = ["myst.header"]  # a page may begin with what GitHub shows as its title


def contents() -> str:
    """The navigation as MyST writes it."""
    parts = []
    for heading, pages in PAGES.items():
        parts += ["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""]
    return "\n".join(parts)


def on_source_read(app: Any, name: str, source: list[str]) -> None:
    """GitHub shows README as it is; the site's copy gets the navigation. Code from which it links is on GitHub."""
    if name == root_doc:
        source[0] += contents()


def setup(app: Any) -> None:
    app.connect("source-read", on_source_read)
