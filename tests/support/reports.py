"""A report's notebook executed in this process, which takes a fraction of the time that a kernel takes to start."""

import ast
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output

from bertvision.core.io import resources
from bertvision.core.pages import write_pages
from bertvision.reporting import show


def _last_value(source: str, names: dict):
    """Execute a cell and return the value of its last line, if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def _output(value):
    bundle = value._repr_mimebundle_()
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    return new_output("display_data", data, metadata=metadata)


class Drawn:
    """In place of `Figures`: figures are drawn in this process where that is asked for, and none is written."""

    draws = True
    made = {}  # name -> whether there was something to draw

    def __init__(self, study, **functions):
        self.functions = functions
        Drawn.made = {}

    def show(self, name, title):
        if self.draws:
            Drawn.made[name] = self.functions[name]() is not None


def report_text(view: str, study, figures: bool = True) -> str:
    """table.md of a report whose figures are drawn, or not even that; to write them takes most of a report's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(show, "Figures", Drawn)
        patch.setattr(Drawn, "draws", figures)
        return (make_report(view, study) / "table.md").read_text(encoding="utf-8")


def make_report(view: str, study) -> Path:
    """Execute nbs/reports/<view>.ipynb on a study's folder, write the report beside its runs and return its folder."""
    began = time.time()
    notebook = nbformat.read(resources() / "reports" / f"{view}.ipynb", as_version=4)
    names = {}
    for cell in [c for c in notebook.cells if c.cell_type == "code"]:
        if "parameters" in cell.metadata.get("tags", ()):
            names["study_dir"] = str(study)
            continue
        value = _last_value(cell.source, names)
        cell.outputs = [_output(value)] if hasattr(value, "_repr_mimebundle_") else []
    folder = Path(study) / "report"
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "notebook.ipynb")
    write_pages(folder, began)
    return folder
