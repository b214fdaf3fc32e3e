"""What makes a report take seconds: few imports, forks that draw, and what is remembered, which must never be stale."""

import gc
import os
import subprocess
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from example_studies import example_study
from example_studies_subsets import example_subsets
from reports import make_report
from study_lab import Lab, pretend_done

from bertvision.core.errors import StudyError
from bertvision.core.figures import empty_figure
from bertvision.core.io import read_json
from bertvision.engine import local as runner
from bertvision.engine.fingerprint import code_closure, notebook_code
from bertvision.engine.grid import load_study
from bertvision.engine.plan import plan
from bertvision.reporting import show
from bertvision.reporting.results import answered, glue_table, plain_groups, read_study, scores
from bertvision.reporting.subset_scores import subset_rows

MODULES = (
    "results claims page phrases methods questions glue layer_scores layers subset_scores subsets "
    "attention languages pretraining".split()
)
HEAVY = "torch transformers datasets accelerate sklearn h5py seaborn scipy.stats papermill nbconvert IPython".split()
RUN = "finetune.cola.s0"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forking needs Linux")


@pytest.fixture
def example(tmp_path):
    return example_study(tmp_path)


def printed(code: str) -> str:
    """What another Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_report_imports_nothing_that_it_does_not_need():
    names = ", ".join(f"bertvision.reporting.{name}" for name in MODULES)
    assert printed(f"import sys, {names}\nprint([m for m in {HEAVY!r} if m in sys.modules])") == "[]"


def test_the_command_line_and_the_childs_side_import_no_tables_and_figures():
    code = (
        "import sys, bertvision.cli, bertvision.engine.local\n"
        "print([m for m in ('pandas', 'matplotlib', 'papermill', 'torch') if m in sys.modules])"
    )
    assert printed(code) == "[]"


def test_papermill_is_imported_without_the_grammar_and_leaves_it_to_others():
    pytest.importorskip("rfc3987_syntax")
    code = """import sys
from bertvision.engine.kernel import load_papermill
load_papermill()
print("papermill" in sys.modules, "rfc3987_syntax" in sys.modules)
import papermill
import rfc3987_syntax
print(rfc3987_syntax.is_valid_syntax("iri", "https://example.org/"))"""
    assert printed(code).split() == ["True", "False", "True"]


# Forks.


@LINUX
def test_forks_and_this_process_draw_the_same_bytes(example, monkeypatch):
    files = lambda: {p.name: p.read_bytes() for p in make_report("glue", example).glob("*.png")}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    forked, here = files(), []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(show, "ProcessPoolExecutor", lambda *_: here.append("a pool"))
    assert files() == forked and not here and len(forked) == 3


@LINUX
def test_figures_of_a_fork_that_was_killed_are_drawn_by_this_process(example, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    here = os.getpid()

    def fragile():
        if os.getpid() != here:
            os._exit(9)
        return empty_figure("drawn at home")

    figures = show.Figures(read_study(example), a=fragile, b=lambda: empty_figure("b"))
    assert all(figures.show(name, name).png.startswith(b"\x89PNG") for name in "ab")
    places = list(figures._paths.values())
    del figures
    gc.collect()
    assert not set(places) & set(show._drawing), "what was drawn is forgotten with the report"


@LINUX
def test_the_error_of_a_broken_pool_keeps_no_report(example, monkeypatch):
    """However long the pool's thread holds it: here the test does."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    here, held, result = os.getpid(), [], Future.result

    def fragile():
        if os.getpid() != here:
            os._exit(9)
        return empty_figure("drawn at home")

    def holding(future):
        try:
            return result(future)
        except BrokenProcessPool as e:
            held.append(e)
            raise

    monkeypatch.setattr(Future, "result", holding)
    figures = show.Figures(read_study(example), a=fragile, b=fragile)
    assert figures.show("a", "a").png.startswith(b"\x89PNG") and held
    places = list(figures._paths.values())
    del figures
    gc.collect()
    assert not set(places) & set(show._drawing), "the error keeps the report"


@pytest.mark.parametrize("cores", [1, 2])
def test_a_figure_that_fails_is_an_error_and_one_without_content_is_none(example, monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    study = read_study(example)
    figures = show.Figures(study, a=lambda: None, b=lambda: empty_figure("b"))
    assert figures.show("a", "A") is None and figures.show("b", "B").title == "B"

    def fail():
        raise KeyError("score")

    with pytest.raises(KeyError, match="score"):
        show.Figures(study, a=fail, b=lambda: empty_figure("b")).show("a", "A")


# What is remembered.


def test_what_a_study_remembers_is_its_own(example):
    study = read_study(example)
    before, table = scores(study), glue_table(study)
    before["value"] = 0.0
    assert (scores(study)["value"] > 0).any(), "a caller may change what it got"
    fewer = replace(study, runs={run: r for run, r in study.runs.items() if not run.endswith(".s1")})
    assert set(scores(fewer)["seed"]) == {0, 2} and set(scores(study)["seed"]) == {0, 1, 2}
    assert (glue_table(fewer).set_index("task").loc["cola", "runs"], glue_table(study).equals(table)) == (2, True)


def test_other_predictions_are_scored_anew(example):
    study = read_study(example)
    rows = study.predictions[RUN]
    first = answered(study, RUN, "validation", "accuracy")[2]
    other = replace(study, predictions=study.predictions | {RUN: rows.assign(prediction=1 - rows["prediction"])})
    assert answered(other, RUN, "validation", "accuracy")[2].mean() == pytest.approx(1 - first.mean())
    again = read_study(example)
    again.predictions[RUN] = rows.assign(prediction=rows["label"])
    assert answered(again, RUN, "validation", "accuracy")[2].mean() == 1


def test_contributions_stand_in_the_order_of_the_ids_whatever_the_order_of_the_rows(example):
    study = read_study(example)
    rows = study.predictions[RUN]
    shuffled = rows.sample(frac=1, random_state=0)
    other = replace(study, predictions=study.predictions | {RUN: shuffled})
    for a, b in zip(answered(study, RUN, "validation", "accuracy"), answered(other, RUN, "validation", "accuracy")):
        assert np.array_equal(a, b)
    assert (
        answered(study, RUN, "validation", "accuracy")[0]
        is answered(study, "finetune.cola.s1", "validation", "accuracy")[0]
    )


def test_subset_rows_follow_their_study(tmp_path):
    study = read_study(example_subsets(tmp_path))
    rows = subset_rows(study)
    rows["accuracy"] = 0.0
    fewer = replace(study, runs={run: r for run, r in study.runs.items() if r["seed"] != 0})
    assert (
        (subset_rows(study)["accuracy"] > 0).all()
        and 0 in set(subset_rows(study)["seed"])
        and 0 not in set(subset_rows(fewer)["seed"])
    )


def test_plain_groups_are_those_of_pandas():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"a": rng.choice(["x", "y", None], 60), "b": rng.integers(0, 3, 60), "value": rng.random(60)})
    for dropna in (True, False):
        ours = {key: group["value"] for key, group in plain_groups(rows, ["a", "b"], dropna)}
        theirs = {key: group["value"].tolist() for key, group in rows.groupby(["a", "b"], sort=False, dropna=dropna)}
        assert list(ours.values()) == list(theirs.values())


# The runner's side.


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    lab.study("{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0, 1], steps: {learn: {}}, report: table}")
    return lab


def reported(lab, *cells):
    """The report's folder, its failure, and the executed notebook."""
    lab.notebook("reports/table", 'study_dir = ""', *cells)
    for job in lab.plan().jobs:
        pretend_done(job)
    folder, failure = runner.report_again(
        plan(load_study("small", root=lab.root), None, lab.out, inputs=False, code=False)
    )
    return folder, failure, read_json(lab.out / "small/report/notebook.ipynb")["cells"]


def test_a_reports_notebook_is_written_whole_also_when_it_fails(lab):
    folder, failure, cells = reported(lab, "print('one')", "print('two')")
    assert failure is None and [c["outputs"][0]["text"] for c in cells[-2:]] == [["one\n"], ["two\n"]]
    assert (folder / "fingerprint.json").exists()
    folder, failure, cells = reported(lab, "print('one')", "1 / 0")
    assert folder is None and "ZeroDivisionError" in failure["exception"] and failure["cell"] == 3
    assert cells[-1]["outputs"][0]["ename"] == "ZeroDivisionError" and any(
        c.get("outputs", [{}])[:1] == [{"name": "stdout", "output_type": "stream", "text": ["one\n"]}] for c in cells
    )
    folder, failure, cells = reported(lab, "print('one')", "import os; os._exit(3)")
    assert failure["exit_code"] == 3 and failure["cell"] == 3 and failure["source"] == "import os; os._exit(3)"


def test_what_changes_while_a_report_is_made_makes_it_stale(lab):
    touch = (
        f"import pathlib; p = next(pathlib.Path({str(lab.out)!r}).glob('small/runs/*/record.json')); "
        "p.write_text(p.read_text() + ' ')"
    )
    folder, failure, _ = reported(lab, touch)
    assert failure is None and not (folder / "fingerprint.json").exists()


def test_a_plan_without_code_asks_no_file_and_has_no_fingerprint(lab, monkeypatch):
    monkeypatch.setattr("bertvision.engine.fingerprint.code_closure", lambda *_: pytest.fail("read"))
    lab.notebook("reports/table", 'study_dir = ""')
    found = plan(load_study("small", root=lab.root), None, lab.out, inputs=False, code=False)
    monkeypatch.undo()
    assert [j.id for j in found.jobs] == [j.id for j in lab.plan().jobs] and found.command == lab.plan().command
    with pytest.raises(StudyError, match="made without the code"):
        _ = found.jobs[0].fingerprint


@pytest.mark.parametrize(
    "source",
    [
        "import bertvision as b\nb.runs.recipes.Recipe",
        "import importlib\nimportlib.import_module('bertvision.runs.recipes')",
        "x = lambda: __import__('bertvision.runs.recipes')",
        "match 1:\n    case 1:\n        from bertvision.runs.recipes import Recipe",
        "try: pass\nexcept* ValueError:\n    from bertvision.runs import recipes",
        "for i in ():\n    pass\nelse:\n    import bertvision.runs.recipes",
        "!python -m bertvision.runs.recipes",
        "%timeit __import__('bertvision.runs.recipes')",
    ],
)
def test_a_shorter_way_through_a_source_finds_all_its_imports(source, tmp_path):
    path = Lab(tmp_path).notebook("any", "a = 1", source)
    assert "runs/recipes.py" in code_closure(notebook_code(path))


def test_a_legend_wider_than_its_figure_is_saved_whole(tmp_path):
    from matplotlib import pyplot as plt
    from PIL import Image

    widths = []
    for entries in (1, 12):
        fig, ax = plt.subplots(figsize=(3, 2), layout="constrained")
        for i in range(entries):
            ax.plot([0, 1], label=f"a method with a long name, {i}")
        fig.legend(loc="outside lower center", ncols=entries)
        show._save_figure(fig, tmp_path / "figure.png", "")
        plt.close(fig)
        widths.append(Image.open(tmp_path / "figure.png").width)
    assert widths[1] > 5 * widths[0]
