"""Tasks that a user defines in a YAML file: all kinds of files, studies on them, and new runs where a file changes."""

import csv
import gzip
import json

import numpy as np
import pandas as pd
import pytest
from reports import make_report
from study_lab import Lab, pretend_done

from bertvision import fit, load_encoder, load_task
from bertvision.core.errors import BertvisionError, DataError
from bertvision.core.io import read_json, write_json
from bertvision.data import tasks
from bertvision.data.tasks import get_task, input_files
from bertvision.engine.plan import job_state
from bertvision.metrics.scores import score

ROWS = [
    (f'it was "{word}", number {i}', f"line one\nline {i}", label)
    for i in range(12)
    for word, label in (("good", "1"), ("awful", "0"))
]
YAML = """
name: reviews
kind: classification
text: [body, title]
label: stars
labels: {0: negative, 1: positive}
metrics: [accuracy, f1]
files: {train: train.csv, validation: dev.jsonl, test: test.tsv.gz}
max_length: 40
"""


@pytest.fixture
def own(tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    with open(place / "train.csv", "w", newline="") as f:
        csv.writer(f).writerows([("stars", "title", "body"), *((label, title, body) for body, title, label in ROWS)])
    (place / "dev.jsonl").write_text(
        "\n".join(json.dumps({"body": b, "title": t, "stars": int(label)}) for b, t, label in ROWS[:6])
    )
    (place / "test.tsv.gz").write_bytes(gzip.compress(b'body\ttitle\na "quote\tx\n'))
    (place / "reviews.yaml").write_text(YAML)
    return place / "reviews.yaml"


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "lab")
    lab.experiment(
        "from bertvision import load_task\nfrom bertvision.runs.run import Run\n"
        'run = Run.start("learn", dict(task=task, seed=seed, max_length=max_length), out_dir, seed)',
        'data = load_task(task)\nrun.finish({"validation": {"accuracy": len(data["train"]) / 100}})',
        parameters='task = "cola"\nencoder = "tiny-random"\nseed = 0\nmax_length = 128\nout_dir = ""',
    )
    return lab


def test_quotes_line_breaks_numbers_and_label_names(own):
    data = load_task(own)
    assert [tuple(r[k] for k in ("text", "text_pair")) for r in data["train"]] == [(b, t) for b, t, _ in ROWS]
    assert data["train"].features["label"].names == ["negative", "positive"] and data["train"]["label"][:] == [
        int(label) for *_, label in ROWS
    ]
    assert (
        data["validation"]["label"][:] == [1, 0] * 3
        and data["test"]["label"][:] == [-1]
        and data["test"]["text"][:] == ['a "quote']
    )
    assert len(set(data["train"]["example_id"])) == len(ROWS)


def test_a_regression_and_a_labelled_test(own):
    own.write_text(
        YAML.replace("classification", "regression")
        .replace("labels: {0: negative, 1: positive}", "scores: [0, 1]")
        .replace("[accuracy, f1]", "pearson")
        .replace("test.tsv.gz}", "dev.jsonl}\nreport: [validation, test]")
    )
    task = load_task(own).task
    assert (
        task.report == ("validation", "test")
        and task.num_labels == 1
        and load_task(own).labels("test").tolist() == [1, 0] * 3
    )


def test_a_wrong_row_is_told_with_its_file_and_line(own):
    text = (own.parent / "dev.jsonl").read_text()
    for new, said in (
        (text.replace('"stars": 1', '"stars": 7', 1), "dev.jsonl:1: label '7': expected one of 0, 1"),
        (text + "\n{}", "dev.jsonl:7: no column 'body'"),
        (text.replace("line 0", " ").replace("line one\\n", ""), "dev.jsonl:1: text_pair is empty"),
    ):
        (own.parent / "dev.jsonl").write_text(new)
        with pytest.raises(DataError, match=said):
            load_task(own)


def test_an_encoder_learns_it(own):
    result = fit(
        load_encoder("tiny-random", get_task(own)),
        load_task(own),
        epochs=8,
        lr=3e-3,
        batch_size=8,
        max_length=60,
        protocol="original",
        precision="fp32",
    )
    assert result.metrics["validation"]["accuracy"] == 1.0 and set(result.metrics["validation"]) == {"accuracy", "f1"}


def test_runs_of_a_study_know_it_and_records_name_no_place(own, lab):
    lab.run(tasks=[str(own)], seeds=[0])
    folder = lab.out / "small" / "runs" / "learn.reviews.tiny-random.s0"
    record = read_json(folder / "record.json")
    assert record["status"] == "done" and record["metrics"]["validation"]["accuracy"] == len(ROWS) / 100
    assert record["parameters"]["task"] == "reviews" and record["parameters"]["max_length"] == 40
    assert str(own.parent) not in (folder / "record.json").read_text() + (lab.out / "small" / "plan.json").read_text()


def test_a_study_may_name_it_and_its_own_length_wins_over_the_steps_but_not_over_the_tasks(own, lab):
    def lengths(steps, *given):
        lab.study(f"tasks: [{own}]\nencoders: [tiny-random]\nseeds: [0]\nsteps: {steps}\n")
        return [j.parameters["max_length"] for j in lab.plan(*given).jobs]

    assert lengths("{learn: {parameters: {max_length: 99}}}") == [40]
    assert lengths("{learn: {parameters: {max_length: 99}, per_task: {reviews: {max_length: 50}}}}") == [50]
    assert lengths("{learn: {}}", "max_length=30") == [30]


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("train.csv", "number 3", "number 33"),
        ("dev.jsonl", "number 1", "number 11"),
        ("reviews.yaml", "negative", "bad"),
    ],
)
def test_a_changed_file_makes_a_new_run(own, lab, name, old, new):
    for job in lab.plan(tasks=[str(own)]).jobs:
        pretend_done(job)
    assert {job_state(j).name for j in lab.plan(tasks=[str(own)]).jobs} == {"done"}
    moved = own.parent.rename(own.parent.with_name("moved")) / own.name
    tasks._ALIASES.pop(tasks.TASKS.pop("reviews").name)
    assert {job_state(j).name for j in lab.plan(tasks=[str(moved)]).jobs} == {"done"}, "a place counts for nothing"
    file = moved.parent / name
    file.write_text(file.read_text().replace(old, new))
    assert {job_state(j).name for j in lab.plan(tasks=[str(moved)]).jobs} == {"changed"}


def test_a_plan_asks_neither_hub_nor_data_folder(own, lab):
    plan = lab.plan(tasks=[str(own)])
    assert plan.notes == [] and "--data" not in plan.command and str(own.parent) not in plan.command
    assert [p.name for p in input_files("reviews")] == ["reviews.yaml", "train.csv", "dev.jsonl", "test.tsv.gz"]


def test_two_files_cannot_have_one_name(own, tmp_path):
    get_task(own)
    for p in own.parent.iterdir():
        (tmp_path / p.name).write_bytes(p.read_bytes())
    with pytest.raises(BertvisionError, match="name = 'reviews': already the name of .*mine"):
        get_task(tmp_path / "reviews.yaml")
    with pytest.raises(DataError, match="absent.yaml cannot be read"):
        get_task("absent.yaml")


TWO_METHODS = """
title: Mine
tasks: [{own}]
encoders: [tiny-random]
seeds: [0, 1]
steps:
  learn: {{title: Plain}}
  other: {{title: Other, experiment: learn}}
"""
MARKS = YAML.replace("classification", "regression").replace("labels: {0: negative, 1: positive}", "scores: [0, 1]")


def pretend_study(lab, own):
    """A study of two methods on an own task: the folder that its eight finished runs would have left."""
    lab.study(TWO_METHODS.format(own=own))
    plan = lab.plan()
    data = load_task(own)
    labels, ids = np.array(data["validation"]["label"][:]), data["validation"]["example_id"][:]
    for job in plan.jobs:
        rng = np.random.default_rng([job.grid["seed"], job.step == "other"])
        said = (
            labels + rng.normal(0, 0.1, len(labels))
            if data.task.kind == "regression"
            else np.r_[1 - labels[:1], labels[1:]]
        )
        pretend_done(
            job,
            metrics={"validation": score(data.task.metrics, said, labels)},
            baselines={"validation": dict.fromkeys(data.task.metrics, 0.0)},
        )
        rows = pd.DataFrame({"split": "validation", "example_id": ids, "label": labels, "prediction": said})
        rows.to_parquet(job.folder / "predictions.parquet", index=False)
    jobs = [{"run": j.id, "step": j.step, **j.grid} for j in plan.jobs]
    write_json(
        plan.folder / "plan.json",
        {"study": "small", "title": "Mine", "jobs": jobs, "titles": {"learn": "Plain", "other": "Other"}},
    )
    return plan.folder


@pytest.mark.parametrize(
    "text, headline",
    [(YAML, "Accuracy"), (MARKS.replace("[accuracy, f1]", "[pearson, spearman]"), "Pearson")],
    ids=["classification", "regression"],
)
@pytest.mark.parametrize("known", [True, False], ids=["file at hand", "file gone"])
def test_a_study_of_two_methods_ends_in_a_report(own, lab, text, headline, known, monkeypatch):
    own.write_text(text + "title: Film reviews\n")
    folder = pretend_study(lab, own)
    tasks._ALIASES.pop(tasks.TASKS.pop("reviews").name)  # as in the process of the report
    if not known:
        monkeypatch.setenv("BERTVISION_TASKS", "")
    report = (make_report("glue", folder) / "table.md").read_text()
    title = "Film reviews" if known else "reviews"
    assert (
        f"| Method | Encoder | Trainable | {title} {headline} |" in report
        or f"| Method | Encoder | {title} {headline} |" in report
    )
    assert "| Plain | tiny-random |" in report and "| Other | tiny-random |" in report
    assert f"| {title} | Other |" in report.partition("## Against the baseline")[2]
