"""CONTRIBUTING.md is executed: its files are written, its Python runs, its study ends in its report."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from bertvision.cli import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def notebook(text: str):
    """A notebook from cells in the percent format."""
    _, *parts = CELL.split(text)
    cells = []
    for about, source in zip(parts[::2], parts[1::2]):
        tags = re.findall(r'"([\w-]+)"', about)
        if "[markdown]" in about:
            cells.append(new_markdown_cell(re.sub(r"^# ", "", source.strip(), flags=re.MULTILINE)))
        else:
            cells.append(new_code_cell(source.strip(), metadata={"tags": tags}))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture
def entries_of_the_package():
    """A pooler or an attention that the page registers is known to this test alone."""
    from bertvision.heads.poolers import LAYER_POOLERS
    from bertvision.models.swaps import SWAPS

    before = [(registry, dict(registry)) for registry in (LAYER_POOLERS, SWAPS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_every_example_works(tmp_path, monkeypatch, entries_of_the_package):
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    names = {}
    for language, file, text in blocks:
        path = tmp_path / file if file else None
        if file:
            path.parent.mkdir(exist_ok=True)
        if file.endswith(".ipynb"):
            nbformat.write(notebook(text), path)
        elif file:
            path.write_text(text)
        elif language == "python":
            exec(compile(text, "CONTRIBUTING.md", "exec"), names)
    assert sum(language == "python" for language, _, _ in blocks) == 6
    assert main(["run", "studies/words.yaml", "--out", "outputs"]) == 0
    report = tmp_path / "outputs" / "words" / "report"
    table = (report / "table.md").read_text()
    assert "# How long are the texts?" in table and "2 of 2 runs finished" in table
    assert "| toy-sentiment |" in table and "## Nothing" not in table
    assert len((report / "table.csv").read_text().splitlines()) == 3


def test_its_commands_exist():
    scripts = [
        line.split() for line in re.findall(r"^bertvision .*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    ]
    for words in scripts:
        with pytest.raises(SystemExit) as end:
            main([words[1], "--help"])
        assert end.value.code == 0
