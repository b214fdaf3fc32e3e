"""The record names the code that ran: edits after the plan, hidden imports, caches, retries, upstream runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import study_lab
from study_lab import FINISH, PARAMETERS, START, TWO_STEPS, Lab, cola_folder

from bertvision.core.io import read_json
from bertvision.engine.local import run_study
from bertvision.engine.plan import job_state, study_states
from bertvision.runs.records import read_record
from bertvision.runs.witness import stamps_of

ENGINES = ["local", pytest.param("snakemake", marks=pytest.mark.long)]


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def run(lab, engine="local", **given):
    plan = lab.plan(**given)
    if engine == "local":
        return run_study(plan, live=False)
    from bertvision.engine.cluster import run_on_cluster

    return run_on_cluster(plan, 1, "local", live=False)


def with_helper(lab, monkeypatch, text):
    """A module of the user's own, and an experiment whose score is what it returns."""
    helper = lab.root / "my_helper.py"
    helper.write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(lab.root), os.environ.get("PYTHONPATH")])))
    lab.experiment(START, 'import my_helper\nrun.finish({"validation": {"accuracy": my_helper.value()}})')
    return helper


def scores(lab):
    return {
        p.parent.name: read_json(p)["metrics"]["validation"]["accuracy"]
        for p in lab.out.glob("small/runs/*/record.json")
        if read_json(p)["status"] == "done"
    }


def editing(path, old, new):
    """A cell that edits a file at the end of the first run, and puts it back at the end of the second."""
    texts = [f"''.join({list(text)!r})" for text in (old, new)]  # so that the cell does not edit itself
    return (
        f"from pathlib import Path\npath, old, new = Path({str(path)!r}), {', '.join(texts)}\ntext = path.read_text()\n"
        "if seed == 0: path.write_text(text.replace(old, new))\nif seed == 1: path.write_text(text.replace(new, old))"
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_notebook_that_is_edited_while_the_study_runs_and_put_back(lab, engine):
    notebook = lab.root / "experiments" / "learn.ipynb"
    lab.experiment(
        START,
        'value = "0.50"',
        'run.finish({"validation": {"accuracy": float(value)}})',
        editing(notebook, "0.50", "0.90"),
    )
    outcome = run(lab, engine, seeds=[0, 1, 2])
    assert scores(lab) == {"learn.toy-sentiment.tiny-random.s0": 0.5, "learn.toy-sentiment.tiny-random.s2": 0.5}
    ((id, failure),) = outcome.failed.items()
    assert id.endswith("s1") and "learn.ipynb was changed between the plan and the run" in failure["reason"]
    assert read_record(lab.out / "small" / "runs" / id)["status"] == "failed"
    assert run(lab, engine, seeds=[0, 1, 2]).ok and scores(lab)["learn.toy-sentiment.tiny-random.s1"] == 0.5


@pytest.fixture
def clone(tmp_path):
    """A copy of the package that a test may edit, with its notebooks, and the environment in which it is imported."""
    import bertvision

    home, place = Path(bertvision.__file__).parents[1], tmp_path / "clone"
    subprocess.run(["cp", "-r", str(home / "bertvision"), str(home / "nbs"), str(tmp_path)], check=True)
    place.mkdir()
    for name in ("bertvision", "nbs"):
        (tmp_path / name).rename(place / name)
    return place


def in_clone(clone, lab, code):
    """Run code with the clone's package; returns what it prints."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(clone), str(Path(study_lab.__file__).parent), str(Path(__file__).parent)])
    }
    code = (
        "from pathlib import Path\nfrom study_lab import Lab\nfrom test_witness import run, scores\n"
        f"lab = Lab(Path({str(lab.root)!r}))\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=lab.root)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("engine", ENGINES)
def test_a_package_that_is_edited_while_the_study_runs_and_put_back(lab, clone, engine):
    metrics = clone / "bertvision" / "metrics" / "scores.py"
    metrics.write_text(metrics.read_text() + "\n\ndef planted():\n    return 0.50\n")
    lab.experiment(
        "from bertvision.metrics.scores import planted\n" + START,
        editing(metrics, "0.50", "0.90"),
        'run.finish({"validation": {"accuracy": planted()}})',
    )
    told = in_clone(
        clone, lab, f"o = run(lab, {engine!r}, seeds=[0, 1, 2]); print(sorted(scores(lab).items())); print(o.failed)"
    )
    found = told.splitlines()[-2]
    assert found == "[('learn.toy-sentiment.tiny-random.s0', 0.5), ('learn.toy-sentiment.tiny-random.s2', 0.5)]"
    assert "the code was changed between the plan and the run: metrics.scores.planted" in told.splitlines()[-1]


@pytest.mark.long
def test_an_edit_that_the_runs_do_not_execute_stops_none_of_them(lab, clone):
    metrics = clone / "bertvision" / "metrics" / "scores.py"
    metrics.write_text(metrics.read_text() + "\n\ndef planted():\n    return 0.50\n\n\ndef other():\n    return 1\n")
    lab.experiment(
        "from bertvision.metrics.scores import planted\n" + START,
        'run.finish({"validation": {"accuracy": planted()}})',
        editing(metrics, "return 1", "return 2"),
    )
    assert "{}" in in_clone(clone, lab, "o = run(lab, seeds=[0, 1, 2]); print(o.failed)")


STATES = (
    "from bertvision.engine.plan import study_states\n"
    "print(sorted({s.why or s.name for s in study_states(lab.plan()).values()}))"
)
PLANTED = "\n\ndef planted():\n    return 0.50  # half\n\n\ndef other():\n    return 1\n"


def states_after(clone, lab, file, text):
    """Where the runs stand when a file of the clone holds another text."""
    (clone / "bertvision" / file).write_text(text)
    return in_clone(clone, lab, STATES).strip()


def test_what_ran_makes_a_run_stale_and_nothing_else_does(lab, clone):
    original = (clone / "bertvision" / "metrics" / "scores.py").read_text() + PLANTED
    (clone / "bertvision" / "metrics" / "scores.py").write_text(original)
    lab.experiment(
        "from importlib import import_module\nplanted = import_module('bertvision.metrics.scores').planted\n" + START,
        'run.finish({"validation": {"accuracy": planted()}})',
    )
    in_clone(clone, lab, "run(lab)")
    for old, new in (
        ("  # half", ""),
        ("return 1", "return 2"),
        ("def other", "LATER = 3\n\n\ndef more(): return LATER\n\n\ndef other"),
    ):
        assert states_after(clone, lab, "metrics/scores.py", original.replace(old, new)) == "['done']", new
    assert (
        states_after(clone, lab, "metrics/scores.py", original.replace("0.50", "0.75"))
        == "['metrics.scores.planted changed']"
    )


@pytest.mark.long
def test_a_shell_line_among_the_imports_hides_no_code(lab, clone):
    original = (clone / "bertvision" / "metrics" / "scores.py").read_text() + PLANTED
    (clone / "bertvision" / "metrics" / "scores.py").write_text(original)
    lab.experiment(
        "from bertvision.metrics import scores\nhost = !echo here\n" + START,
        'run.finish({"validation": {"accuracy": scores.planted()}})',
    )
    in_clone(clone, lab, "run(lab)")
    assert states_after(clone, lab, "metrics/scores.py", original.replace("0.50", "0.75")) != "['done']"


def test_a_helper_module_of_ones_own_counts(lab, monkeypatch):
    helper = with_helper(lab, monkeypatch, "def value(): return 0.25\n")
    assert run(lab).ok and set(scores(lab).values()) == {0.25}
    helper.write_text("def value(): return 0.75\n")
    assert {s.why for s in study_states(lab.plan()).values()} == {"my_helper.value changed"}
    assert run(lab).ok and set(scores(lab).values()) == {0.75}


def test_who_reads_a_cache_depends_on_the_code_that_made_it(lab, clone, monkeypatch):
    monkeypatch.setenv("BERTVISION_CACHE", str(lab.root / "cache"))
    original = (
        (clone / "bertvision" / "metrics" / "scores.py").read_text()
        + """

def numbers():
    import numpy as np
    return {"x": np.array([0.25])}


def cached():
    from ..core.caches import cached_arrays
    return float(cached_arrays("demo", "x", numbers)["x"][0])
"""
    )
    (clone / "bertvision" / "metrics" / "scores.py").write_text(original)
    lab.experiment(
        "from bertvision.metrics.scores import cached\n" + START, 'run.finish({"validation": {"accuracy": cached()}})'
    )
    in_clone(clone, lab, "run(lab)")  # the second seed finds what the first one has left
    assert (
        states_after(clone, lab, "metrics/scores.py", original.replace("0.25", "0.75"))
        == "['metrics.scores.numbers changed']"
    )
    told = in_clone(clone, lab, "run(lab); print(scores(lab))")
    assert "0.75" in told and "0.25" not in told, "the cache was made again"


@pytest.mark.long
def test_a_data_file_that_changes_while_the_study_runs(lab, tmp_path):
    data = cola_folder(tmp_path / "data")
    train = data / "CoLA" / "train.tsv"
    lab.notebook(
        "experiments/learn",
        PARAMETERS + '\ndata = ""',
        START,
        f"open({str(train)!r}, 'a').write('b\\t0\\t\\tAnother .\\n')",
        FINISH,
    )
    outcome = run_study(lab.plan(data=data, tasks=["cola"], seeds=[0]), live=False)
    assert (
        "train.tsv was changed between the plan and the end of the run" in next(iter(outcome.failed.values()))["reason"]
    )


@pytest.mark.long
def test_another_default_dtype_is_refused(lab):
    lab.experiment("import torch\ntorch.set_default_dtype(torch.float64)\n" + START, FINISH)
    failure = next(iter(run(lab, seeds=[0]).failed.values()))
    assert "default dtype is float64: expected float32" in failure["reason"]


def test_a_run_knows_which_attempt_of_its_upstream_it_was_made_from(lab, monkeypatch):
    helper = with_helper(lab, monkeypatch, "def value(): return 0.25\n")
    lab.experiment(START.replace('"learn"', '"use"'), FINISH, name="use")
    lab.study(TWO_STEPS)
    assert run(lab, seeds=[0]).ok
    upstream, downstream = (lab.out / "small" / "runs" / f"{s}.toy-sentiment.tiny-random.s0" for s in ("learn", "use"))
    assert read_record(downstream)["made_from"] == {upstream.name: stamps_of(read_record(upstream))[0]}
    helper.write_text("def value(): return 0.75\n")
    why = {id: s.why for id, s in study_states(lab.plan(seeds=[0])).items()}
    assert why == {
        upstream.name: "my_helper.value changed",
        downstream.name: f"{upstream.name}, on which it builds, is to be run again",
    }
    assert run(lab, seeds=[0]).ok and {s.name for s in study_states(lab.plan(seeds=[0])).values()} == {"done"}
    made = read_record(downstream)["started"], (downstream / "notebook.ipynb").stat().st_mtime_ns
    helper.write_text("def value():\n    return 0.75  # the same\n")
    assert (
        run(lab, seeds=[0]).ok
        and (read_record(downstream)["started"], (downstream / "notebook.ipynb").stat().st_mtime_ns) == made
    )


@pytest.mark.long
def test_an_attempt_that_was_cut_off_under_other_code_is_not_continued(lab, monkeypatch):
    helper = lab.root / "my_helper.py"
    helper.write_text("def value(): return 0.25\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(lab.root), os.environ.get("PYTHONPATH")])))
    keep = (
        'state = run.folder / "state.txt"\nif not state.exists():\n    state.write_text(str(my_helper.value()))\n'
        "    run.update(1, 2)\n    os.kill(os.getpid(), 9)"
    )
    lab.experiment(
        START,
        f"import os\nimport my_helper\n{keep}",
        'run.finish({"validation": {"accuracy": float(state.read_text())}})',
    )
    assert not run(lab, seeds=[0]).ok
    helper.write_text("def value(): return 0.75\n")
    assert not run(lab, seeds=[0]).ok and run(lab, seeds=[0]).ok
    assert set(scores(lab).values()) == {0.75}, "the state of the attempt under other code was thrown away"


WORKERS = """
import multiprocessing, sys
import bertvision
from bertvision.core.executed import collect_in, executed, merge_executed
import my_helper
if __name__ == "__main__":
    collect_in(sys.argv[2])
    process = multiprocessing.get_context(sys.argv[1]).Process(target=my_helper.value)
    process.start()
    process.join()
    assert not merge_executed(sys.argv[2])
    print(sorted(executed()["my_helper"].units))
"""


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_what_workers_execute_their_parent_knows(tmp_path, how):
    (tmp_path / "my_helper.py").write_text("def value(): return 0.25\n\n\ndef other(): return 1\n")
    (tmp_path / "script.py").write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "script.py", how, str(tmp_path / "told")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0 and done.stdout.strip() == "['value']", done.stderr


def test_sources_are_kept_once_a_study(lab):
    lab.experiment()
    assert run(lab).ok
    records = [read_record(p.parent) for p in lab.out.glob("small/runs/*/record.json")]
    assert len({r["executed"] for r in records}) == 1 and len(list(lab.out.glob("small/executed/*.json"))) == 1
    kept = read_json(lab.out / "small" / "executed" / f"{records[0]['executed']}.json")
    assert {f"{k['source']}.py" for k in kept.values()} == {p.name for p in lab.out.glob("small/sources/*.py")}
    assert (
        "Run.finish" in kept["bertvision.runs.run"]["executed"]
        and "mark_accepted" not in kept["bertvision.runs.records"]["executed"]
    )


def test_a_list_that_was_changed_by_hand_counts_for_nothing(lab):
    lab.experiment()
    assert run(lab, seeds=[0]).ok
    path = next(lab.out.glob("small/executed/*.json"))
    path.write_text(path.read_text().replace("Run.finish", "Run.begin"))
    os.utime(path, (time.time() + 5, time.time() + 5))
    assert "does not match the digest in its name" in job_state(lab.plan(seeds=[0]).jobs[0]).why
    path.unlink()
    assert "is missing" in job_state(lab.plan(seeds=[0]).jobs[0]).why


def test_an_accepted_run_counts_with_the_digests_of_today(lab, monkeypatch):
    from bertvision.engine.accept import accept

    helper = with_helper(lab, monkeypatch, "def value(): return 0.25\n")
    assert run(lab, seeds=[0]).ok
    helper.write_text("def value(): return 0.250\n\n\ndef value(): return 0.25 + 0\n")
    assert job_state(lab.plan(seeds=[0]).jobs[0]).name == "changed"
    accepted, refused = accept(lab.plan(seeds=[0]), "the same number, written otherwise")
    assert len(accepted) == 1 and not refused and job_state(lab.plan(seeds=[0]).jobs[0]).name == "done"
    helper.write_text("def value(): return 0.75\n")
    assert job_state(lab.plan(seeds=[0]).jobs[0]).name == "changed"


BY_HAND = """
import os, sys
import bertvision
import my_helper
from bertvision.runs.run import Run
my_helper.value()
run = Run.start("demo", {"lr": 1.0}, sys.argv[1])
print(run.record["attempt"], run.folder, flush=True)  # os._exit flushes nothing
run.update(1, 2)
os._exit(1)
"""


def test_by_hand_a_cut_off_attempt_under_other_code_begins_anew(tmp_path):
    env = os.environ | {
        "BERTVISION_OUTPUTS": str(tmp_path / "outputs"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }

    def start(out_dir=""):
        return subprocess.run(
            [sys.executable, "-c", BY_HAND, out_dir], capture_output=True, text=True, env=env, cwd=tmp_path
        )

    for text, attempts in (("0.25", "12"), ("0.75", "1")):
        (tmp_path / "my_helper.py").write_text(f"def value(): return {text}\n")
        assert [start().stdout[:1] for _ in attempts] == list(attempts)
    assert start("named").stdout[:1] == "1"
    (tmp_path / "my_helper.py").write_text("def value(): return 0.5\n")
    assert "an interrupted attempt whose code has changed since (my_helper): delete the folder" in start("named").stderr


def test_a_file_in_which_a_process_told_what_it_executed_is_damaged(tmp_path):
    from bertvision.core.executed import changed_modules, write_executed

    write_executed(tmp_path, "attempt-1")
    assert changed_modules(tmp_path) == []
    path = tmp_path / "attempt-1.json"
    path.write_text(path.read_text()[:100])
    assert changed_modules(tmp_path) == ["attempt-1.json (damaged)"]


def test_a_checkpoint_tells_what_made_it(tmp_path, monkeypatch):
    import bertvision.training.trainer as loop

    calls = []
    monkeypatch.setattr(
        loop, "write_own_executed", lambda: calls.append(sorted(p.name for p in tmp_path.glob("checkpoint/*")))
    )
    from bertvision import fit, load_encoder, load_task
    from bertvision.data.splits import subset

    data = load_task("toy-sentiment")
    data.splits["train"] = subset(data["train"], 64)
    fit(load_encoder("tiny-random", data.task, seed=0), data, epochs=1, folder=tmp_path)
    assert calls and all(not any(name.startswith("step") for name in names) for names in calls[:1]), (
        "before the checkpoint is there"
    )


def test_a_run_whose_upstream_is_gone_is_executed(tmp_path):
    from bertvision.core.io import write_json
    from bertvision.engine.child import _still_done

    (tmp_path / "b").mkdir()
    record = {
        "status": "done",
        "experiment": "x",
        "parameters": {},
        "seed": 0,
        "protocol": "carved",
        "metrics": {},
        "seconds": {},
        "fingerprints": {"job": "f"},
        "executed": "0",
        "made_from": {"a": "s"},
    }
    write_json(tmp_path / "b" / "record.json", record)
    assert not _still_done(tmp_path / "b", {"fingerprint": "f", "run": "b"})


def test_runs_are_averaged_when_what_both_executed_is_the_same(lab, monkeypatch):
    from bertvision.reporting.results import read_study

    helper = with_helper(lab, monkeypatch, "def value(): return 0.25\n\n\ndef other(): return 1\n")
    assert run(lab, seeds=[0]).ok

    def different(text, seed):
        helper.write_text(text)
        assert run(lab, seeds=[seed]).ok
        faults = [f for f in read_study(lab.out / "small").faults if f["run"].endswith(f"s{seed}")]
        return [f["why"] for f in faults if f["state"] == "different code"]

    assert different("def value(): return 0.25\n\n\ndef other(): return 2\n", 1) == []
    (why,) = different("def value(): return 0.5\n", 2)
    assert why.startswith("it executed another 'my_helper.value' than ") and why.endswith(".s0: averaged with it")


@pytest.mark.parametrize("accepted", [["text"], [{"was": "text"}], [{"was": None}], [{}], None])
def test_stamps_of_a_damaged_acceptance_are_the_runs_own(accepted):
    from bertvision.runs.witness import stamps_of

    assert stamps_of({"fingerprints": {"job": "a"}, "executed": "b", "accepted": accepted}) == ["a:b"]
