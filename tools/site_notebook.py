"""For the site: ``docs/tutorial.ipynb`` becomes a page, its pictures files beside it."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

NOTEBOOK = "tutorial.ipynb"
PICTURES = "tutorial_files"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and its pictures to the site's files; mkdocs calls this."""
    notebook = Path(config.docs_dir) / NOTEBOOK
    body, resources = MarkdownExporter().from_filename(notebook, {"unique_key": "figure", "output_files_dir": PICTURES})
    files.append(File.generated(config, notebook.with_suffix(".md").name, content=body))
    for name, picture in resources["outputs"].items():
        files.append(File.generated(config, name, content=picture))
    return files
