"""Runs are averaged when all that made them is the same, upstream too; a copied folder is no further seed."""

import os
import shutil
import time
from pathlib import Path

import pytest
from example_studies import example_study
from study_lab import Lab, change, pretend_done

from bertvision.core.errors import DataError
from bertvision.core.hashing import fingerprint
from bertvision.core.io import read_json, write_json
from bertvision.engine.accept import accept
from bertvision.engine.forecast import _finished, this_machine
from bertvision.engine.grid import load_study
from bertvision.engine.local import _write_plan
from bertvision.engine.plan import job_state, plan
from bertvision.evaluation.glue_server import glue_runs
from bertvision.reporting.compare import compare_studies, comparison_text
from bertvision.reporting.methods import growth, wide
from bertvision.reporting.results import glue_table, read_study
from bertvision.reporting.share import export_study, open_shared
from bertvision.runs.records import mark_accepted, new_record, read_record
from bertvision.runs.witness import keep_executed, stamps_of

STUDY = """
title: Heads
tasks: [toy-acceptability]
encoders: [tiny-random]
seeds: [0, 1, 2]
steps:
  finetune: {title: Fine-tuning, parameters: {epochs: 1, keep_model: true}}
  extract: {experiment: extract_states, needs: [finetune]}
  heads: {title: Heads, experiment: train_heads, needs: [extract]}
"""
GRID = "toy-acceptability.tiny-random"
LATER = "2100-01-01T00:00:00+00:00"


@pytest.fixture
def planned(tmp_path):
    """Plans of a study of heads on fine-tuned encoders."""
    file = tmp_path / "studies" / "heads.yaml"
    file.parent.mkdir()
    file.write_text(STUDY)
    return lambda *overrides, **grid: plan(load_study(str(file), list(overrides), **grid), None, tmp_path / "outputs")


def done(made, steps=("finetune", "extract", "heads"), **changes) -> Path:
    """Write the records of finished runs of a plan, with folders as seen from the run; return the study's folder."""
    _write_plan(made)
    for job in made.jobs:
        if job.step not in steps:
            continue
        seen = {
            k: f"../{Path(v).name}" if k.endswith("_dir") and k != "out_dir" and v else v
            for k, v in job.parameters.items()
        }
        scores = {} if job.step == "extract" else {"validation": {"matthews": 0.5 + job.grid["seed"] / 10}}
        pretend_done(
            job,
            **{
                "parameters": seen,
                "metrics": scores,
                "examples": {"train": 900},
                "seconds": {"total": time.perf_counter()},
                **changes,
            },
        )
    return made.folder


def rows_of(folder, step="heads"):
    """Title -> seeds of the rows of a step."""
    table = glue_table(read_study(folder)).query("step == @step and status == 'done'")
    return dict(zip(table["method"], table["seeds"]))


def faults(folder):
    """Run -> (state, why), of what is not about missing predictions."""
    return {f["run"]: (f["state"], f["why"]) for f in read_study(folder).faults if f["state"] != "unchecked"}


def test_heads_on_encoders_of_other_epochs_are_another_row(planned):
    folder = done(planned())
    assert rows_of(folder) == {"Heads": "0 1 2"} and faults(folder) == {}
    done(planned("finetune.epochs=3", seeds=[0, 1]))
    assert faults(folder) == {}
    assert rows_of(folder) == {"Heads (extract.finetune.epochs=3.0)": "0 1", "Heads (extract.finetune.epochs=1.0)": "2"}
    assert rows_of(folder, "finetune") == {"Fine-tuning (epochs=3.0)": "0 1", "Fine-tuning (epochs=1.0)": "2"}
    study = read_study(folder)
    table = glue_table(study).set_index("method")
    assert table.loc["Heads (extract.finetune.epochs=1.0)", "mean"] == 0.7 and table.loc[
        "Heads (extract.finetune.epochs=3.0)", "mean"
    ] == pytest.approx(0.55)
    assert list(wide(table.reset_index())["Method"]) == list(table.index), "each row has its line in the first table"
    assert (
        sorted(growth(study)["epochs"]) == [1.0] * 2 + [3.0] * 4
        and not growth(study)["method"].str.contains("epochs").any()
    ), "epochs are an axis there"


def test_other_settings_upstream_keep_runs_apart_in_every_figure(planned):
    folder = done(planned())
    done(planned("finetune.lr=0.5", seeds=[2]))
    assert set(growth(read_study(folder)).query("step == 'heads'")["method"].str.partition(" (")[2]) == {
        "extract.finetune.lr=0.001)",
        "extract.finetune.lr=0.5)",
    }
    told = comparison_text(compare_studies(read_study(folder), read_study(folder)))
    assert "Heads (extract.finetune.lr=0.5)" in told


def test_what_is_kept_and_where_is_no_setting(planned):
    folder = done(planned())
    for run, given in (
        (
            f"finetune.{GRID}.s0",
            {"keep_model": False, "keep_epochs": True, "checkpoint_seconds": 1.0, "drive": "there"},
        ),
        (f"heads.{GRID}.s1", {"out_dir": "elsewhere"}),
    ):
        change(folder, run, lambda r, given=given: r["parameters"].update(given))
    for run, known in (
        (f"finetune.{GRID}.s1", ("epochs", "lr", "finetune_dir")),
        (f"heads.{GRID}.s2", ("extract_dir", "heads")),
    ):  # as older records have it
        kept = {k: v for k, v in read_record(folder / "runs" / run)["parameters"].items() if k in known}
        change(folder, run, lambda r, kept=kept: r.update(parameters=kept))
    change(folder, f"finetune.{GRID}.s2", lambda r: r["parameters"].update(epochs=1, evals_per_epoch=1.0))  # 1 and 1.0
    assert (
        rows_of(folder) == {"Heads": "0 1 2"}
        and rows_of(folder, "finetune") == {"Fine-tuning": "0 1 2"}
        and faults(folder) == {}
    )


def test_what_was_built_on_a_replaced_run_is_named_and_left_out(planned):
    folder = done(planned())
    done(planned("finetune.epochs=3", seeds=[0, 1]), steps=["finetune"])
    state, why = faults(folder)[f"heads.{GRID}.s0"]
    assert (
        state == "out of date"
        and f"extract.{GRID}.s0 is out of date itself: finetune.{GRID}.s0 has been replaced since" in why
    )
    assert set(faults(folder)) == {f"{step}.{GRID}.s{seed}" for step in ("extract", "heads") for seed in (0, 1)}
    assert rows_of(folder) == {"Heads": "2"}
    done(planned("finetune.epochs=3", seeds=[0, 1]), steps=["extract", "heads"])
    assert faults(folder) == {}


def test_by_hand_the_clock_tells_what_was_replaced(planned):
    folder = done(planned(), finished="2000-01-01T00:00:09+00:00", started="2000-01-01T00:00:00+00:00")
    for run in (folder / "runs").iterdir():
        change(folder, run.name, lambda r: r["fingerprints"].clear())
    assert faults(folder) == {}
    change(folder, f"finetune.{GRID}.s1", lambda r: r.update(started=LATER))
    assert set(faults(folder)) == {f"extract.{GRID}.s1", f"heads.{GRID}.s1"} and rows_of(folder) == {"Heads": "0 2"}


def test_accepted_runs_are_not_replaced_ones(planned):
    made = planned()
    folder = done(made)
    for job in made.jobs:  # first upstream alone, then what was built on it
        if job.step == "finetune":
            mark_accepted(job.folder, {"code": "newer", "job": f"newer {job.id}"}, "a comment")
    assert faults(folder) == {} and rows_of(folder) == {"Heads": "0 1 2"}
    for job in made.jobs:
        if job.step == "extract":
            mark_accepted(
                job.folder,
                {"needs": fingerprint([f"newer {need}" for need in job.needs]), "job": f"newer {job.id}"},
                "a comment",
            )
    assert faults(folder) == {} and rows_of(folder) == {"Heads": "0 1 2"}
    change(folder, f"extract.{GRID}.s0", lambda r: r["fingerprints"].update(needs=fingerprint(["never"])))
    assert faults(folder)[f"extract.{GRID}.s0"][0] == "out of date"


def test_marks_of_runs_upstream_tell_what_was_replaced(planned):
    made = planned()
    folder = done(made)
    # as the witness of a run has it; the fingerprint over all needs is the plan's, not that of the runs
    for job in made.jobs:
        marks = {need: stamps_of(read_record(folder / "runs" / need))[0] for need in job.needs}
        ran = keep_executed(
            {job.id: {"source": "", "file": "gone.py", "names": [], "executed": {}, "statements": {}}}, folder
        )
        changes = {"made_from": marks, "executed": ran}
        change(folder, job.id, lambda r, changes=changes: r.update(changes))
        change(folder, job.id, lambda r: r["fingerprints"].update(needs="of a newer plan"))
    assert faults(folder) == {}
    mark_accepted(folder / "runs" / f"finetune.{GRID}.s0", {"job": "newer"}, "a comment")
    assert faults(folder) == {} and rows_of(folder) == {"Heads": "0 1 2"}
    other = keep_executed(
        {"another": {"source": "", "file": "gone.py", "names": [], "executed": {}, "statements": {}}}, folder
    )
    change(folder, f"finetune.{GRID}.s1", lambda r: r.update(executed=other))
    assert set(faults(folder)) == {f"extract.{GRID}.s1", f"heads.{GRID}.s1"} and rows_of(folder) == {"Heads": "0 2"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(path.read_text()[:300]),
        lambda path: shutil.rmtree(path.parent),
    ],
)
def test_runs_whose_upstream_cannot_be_read_are_named_and_stand_apart(planned, harm):
    folder = done(planned())
    harm(folder / "runs" / f"finetune.{GRID}.s0" / "record.json")
    assert rows_of(folder) == {"Heads (extract.finetune=unknown)": "0", "Heads (extract.finetune=finetune)": "1 2"}
    for step in ("extract", "heads"):
        state, why = faults(folder)[f"{step}.{GRID}.s0"]
        assert state == "unknown upstream" and f"../finetune.{GRID}.s0 cannot be read" in why and str(folder) not in why


def test_runs_outside_the_study_count_and_a_circle_is_named(planned, tmp_path):
    folder = done(planned())
    for seed, lr in enumerate((0.1, 0.1, 0.2)):
        place = tmp_path / "elsewhere" / f"any-name-{seed}"
        write_json(
            place / "record.json",
            new_record("finetune", {"task": "toy-acceptability", "lr": lr}, job={"run": f"finetune.s{seed}"})
            | {"status": "done", "finished": "2000-01-01T00:00:00+00:00", "started": "2000-01-01T00:00:00+00:00"},
        )
        folders = {"extract_dir": "", "finetune_dir": os.path.relpath(place, folder / "runs" / "x")}
        change(folder, f"heads.{GRID}.s{seed}", lambda r, folders=folders: r["parameters"].update(folders))
        change(folder, f"heads.{GRID}.s{seed}", lambda r: r["fingerprints"].update(needs=""))
    assert (
        rows_of(folder) == {"Heads (finetune.lr=0.1)": "0 1", "Heads (finetune.lr=0.2)": "2"} and faults(folder) == {}
    )
    change(folder, f"heads.{GRID}.s0", lambda r: r["parameters"].update(finetune_dir=f"../heads.{GRID}.s0"))
    assert "builds on itself" in faults(folder)[f"heads.{GRID}.s0"][1]


def test_by_hand_a_folder_counts_from_where_the_notebook_was_started(tmp_path):
    for seed, epochs in enumerate((1.0, 1.0, 3.0)):
        write_json(
            tmp_path / "tuned" / f"s{seed}" / "record.json",
            new_record("finetune", {"task": "cola", "epochs": epochs}) | {"status": "done"},
        )
        record = new_record("train_heads", {"task": "cola", "finetune_dir": f"tuned/s{seed}"}, seed) | {
            "status": "done",
            "metrics": {"validation": {"matthews": 0.5}},
        }
        write_json(tmp_path / "outputs" / "mine" / "runs" / f"s{seed}" / "record.json", record)
    table = glue_table(read_study(tmp_path / "outputs" / "mine"))
    assert dict(zip(table["settings"], table["seeds"])) == {"finetune.epochs=1.0": "0 1", "finetune.epochs=3.0": "2"}


ALSO = """
    tasks: [toy-sentiment]
    encoders: [tiny-random]
    seeds: [0, 1]
    steps: {learn: {}, other: {}, use: {needs: [learn, other]}}
"""


def test_needs_whose_folders_a_notebook_does_not_ask_for_are_no_fault(tmp_path):
    lab = Lab(tmp_path)
    lab.study(ALSO)
    parameters = 'task = "cola"\nencoder = "tiny-random"\nseed = 0\nlr = 1e-4\nout_dir = ""'
    for name, more in (("learn", ""), ("other", ""), ("use", '\nlearn_dir = ""')):
        lab.experiment(name=name, parameters=parameters + more)
    made = lab.plan()
    for job in made.jobs:
        pretend_done(job)
    _write_plan(made)
    assert faults(made.folder) == {}
    for job in lab.plan("other.lr=1e-3").jobs:
        if job.step == "other" and job.grid["seed"] == 1:
            pretend_done(job)
    found = faults(made.folder)
    assert (
        set(found) == {"use.toy-sentiment.tiny-random.s1"}
        and found["use.toy-sentiment.tiny-random.s1"][0] == "out of date"
    )


def test_encoders_from_folders_of_one_name_are_not_averaged(planned):
    folder = done(planned())
    for seed, place in enumerate(("/here/mine", "/here/mine", "/there/mine")):
        run = f"finetune.{GRID}.s{seed}"
        change(folder, run, lambda r, place=place: r.update(encoder=place, step="finetune"))
        change(folder, run, lambda r, place=place: r["fingerprints"].update(inputs=place))
    found = rows_of(folder, "finetune")
    assert sorted(found.values()) == ["0 1", "2"] and all(
        title.startswith("Fine-tuning (encoder=mine-") for title in found
    )


@pytest.fixture
def example(tmp_path):
    return example_study(tmp_path / "outputs")


def mean_of(study, task="cola"):
    return glue_table(study).query("task == @task").iloc[0]


def named(folder):
    """Give the records of an invented study their runs' names and the times of real ones."""
    for place in (folder / "runs").iterdir():
        try:
            read_json(place / "record.json")
        except DataError:
            continue
        names = {"job": place.name, "seconds": {"total": 5 + time.perf_counter()}, "device": this_machine()}
        change(folder, place.name, lambda r, names=names: r.update(names))
    return folder


@pytest.mark.parametrize("by", ["name", "plan", "content"])
def test_a_copied_folder_is_no_further_seed(example, by):
    if by == "name":
        named(example)
    before = mean_of(read_study(example))
    copy, original = {"plan": ("finetune.qnli.s0", "finetune.cola.s1")}.get(by, ("a-copy", "finetune.cola.s1"))
    shutil.copytree(example / "runs" / original, example / "runs" / copy)
    study = read_study(example)
    fault = next(f for f in study.faults if f["run"] == copy)
    assert fault["state"] == "misplaced" and "copied" in fault["why"] and copy not in study.runs
    assert (mean_of(study)["runs"], mean_of(study)["sd"]) == (before["runs"], before["sd"])
    assert f"{copy} is misplaced" in comparison_text(compare_studies(study, study))


def test_a_second_run_of_a_method_and_seed_is_left_out_and_named(example):
    named(example)
    before = mean_of(read_study(example))
    again, first = example / "runs" / "finetune.cola.s1-again", "finetune.cola.s1"
    shutil.copytree(example / "runs" / first, again)
    change(
        example,
        again.name,
        lambda r: r.update(
            job=again.name,
            seconds={"total": 99.0},
            finished="2100-01-01T00:00:00+00:00",
            metrics={"validation": {"matthews": 0.9, "accuracy": 0.9}},
        ),
    )
    study = read_study(example)
    assert faults(example)[first] == (
        "same seed",
        f"{again.name} has the same method and seed 1 and finished later: left out, a seed counts once",
    )
    assert first not in study.runs and first not in study.predictions and again.name in study.runs
    assert (mean_of(study)["runs"], mean_of(study)["seeds"]) == (before["runs"], before["seeds"]) and mean_of(study)[
        "mean"
    ] != before["mean"]


def test_a_renamed_folder_is_not_the_run_that_it_is_called(example):
    named(example)
    (example / "runs" / "finetune.cola.s2").rename(example / "runs" / "finetune.qnli.s2")
    study = read_study(example)
    assert faults(example)["finetune.qnli.s2"] == (
        "misplaced",
        "its record is of finetune.cola.s2: the folder was copied or renamed",
    )
    assert mean_of(study)["seeds"] == "0 1" and mean_of(study, "qnli")["status"] == "misplaced"


def test_a_copy_is_not_exported_and_forecasts_nothing(example, tmp_path):
    named(example)
    count = len(_finished(example.parent))
    shutil.copytree(example / "runs" / "finetune.cola.s1", example / "runs" / "a-copy")
    shutil.copytree(example, example.parent / "again")
    assert len(_finished(example.parent)) == count > 0
    told = export_study(example, tmp_path / "a.zip")
    assert not [name for name in told["files"] if "a-copy" in name]
    assert {m["run"]: m["why"] for m in told["missing"]}["a-copy"].startswith(
        "misplaced: its record is of finetune.cola.s1"
    )
    assert len(open_shared(tmp_path / "a.zip").runs) == len(read_study(example).runs)


def test_the_runner_does_not_take_a_copied_folder_for_a_finished_run(tmp_path):
    lab = Lab(tmp_path)
    lab.study("""
        tasks: [toy-sentiment]
        encoders: [tiny-random]
        seeds: [0]
        steps: {learn: {}, again: {experiment: learn}}
    """)
    lab.experiment()
    first, second = lab.plan().jobs
    assert first.fingerprint == second.fingerprint
    pretend_done(first)
    shutil.copytree(first.folder, second.folder)
    state = job_state(second)
    assert (state.name, job_state(first).name) == (
        "changed",
        "done",
    ) and state.why == f"its record is of {first.id}: the folder was copied or renamed"
    taken, refused = accept(lab.plan(), "the same")
    assert taken == [] and refused == {second.id: state.why}


def test_a_copied_model_is_handed_in_once(tmp_path):
    runs = tmp_path / "runs"
    for seed in (0, 1):
        record = new_record("finetune", {"task": "cola", "max_length": 32}, seed, job={"run": f"finetune.cola.s{seed}"})
        write_json(
            runs / f"finetune.cola.s{seed}" / "record.json",
            record | {"status": "done", "metrics": {"selection": {"matthews": 0.1 + seed}}},
        )
        write_json(runs / f"finetune.cola.s{seed}" / "model" / "config.json", {})
    shutil.copytree(runs / "finetune.cola.s1", runs / "best")
    assert [c.folder.name for c in glue_runs(runs)["cola"]] == ["finetune.cola.s1", "finetune.cola.s0"]
    assert [c.folder.name for c in glue_runs(runs / "best")["cola"]] == ["best"], (
        "a folder that is given itself may have any name"
    )
    for seed in (0, 1):
        shutil.rmtree(runs / f"finetune.cola.s{seed}")
    with pytest.raises(DataError, match="best is left out: its record is of finetune.cola.s1"):
        glue_runs(runs)


def test_no_committed_run_is_misplaced_out_of_date_or_without_upstream():
    from bertvision.reporting.results import _counted

    studies = sorted(p.parent for p in (Path(__file__).parents[2] / "outputs").glob("*/plan.json"))
    assert len(studies) > 10
    for study in studies:
        runs, found = _counted(sorted((study / "runs").iterdir()), read_json(study / "plan.json")["jobs"])
        assert runs and not found, (study.name, found[:3])
