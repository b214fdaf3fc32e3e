"""The report: no run disappears, numbers are right, the page stands alone."""

import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_studies import example_study
from reports import make_report

from bertvision.core.errors import DataError, OutputError
from bertvision.core.io import read_json, write_json
from bertvision.core.pages import excerpt
from bertvision.metrics.statistics import answers_collapse
from bertvision.models.registry import weights_remark
from bertvision.reporting.glue import legend, notes, plot_loss, plot_scores, plot_selection, readable, summary
from bertvision.reporting.methods import growth, wide
from bertvision.reporting.page import environment, remarks, tally
from bertvision.reporting.results import glue_table, read_study, scores
from bertvision.runs.locks import lock

OUTPUTS = Path(__file__).parents[2] / "outputs"
VOID = {"meta", "img", "br", "link"}


@pytest.fixture
def example(tmp_path):
    return example_study(tmp_path)


def change(study, run, **values):
    "Change keys of a run's record."
    path = study / "runs" / run / "record.json"
    write_json(path, read_json(path) | values)


def only(study, *runs):
    "Keep some runs and plan nothing else."
    for place in (study / "runs").iterdir():
        if place.name not in runs:
            shutil.rmtree(place)
    (study / "plan.json").unlink()


def change_predictions(study, run, change):
    "Replace a run's predictions by `change` of them."
    path = study / "runs" / run / "predictions.parquet"
    change(pd.read_parquet(path)).to_parquet(path, index=False)


def cell(table, task, column):
    return table[table["task"] == task].iloc[0][column]


def states(study):
    return {f["run"]: f["state"] for f in read_study(study).faults}


def test_the_mean_is_that_of_the_seeds(example):
    study = read_study(example)
    row = glue_table(study).set_index("task").loc["cola"]
    values = [study.runs[f"finetune.cola.s{seed}"]["metrics"]["validation"]["matthews"] for seed in range(3)]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["low"] < row["mean"] < row["high"] and row["example_low"] < row["mean"] < row["example_high"]
    assert row["seeds"] == "0 1 2" and row["protocol"] == "carved"


def test_nothing_disappears(example):
    change(example, "finetune.cola.s0", status="running", started="2000-01-01")
    (example / "runs" / "finetune.cola.s1" / "record.json").unlink()
    write_json(example / "runs" / "finetune.rte.s0" / "record.json", {"status": "done"})
    assert states(example) == {
        "finetune.cola.s0": "cut off",
        "finetune.cola.s1": "broken",
        "finetune.rte.s0": "broken",
        "finetune.mrpc.s2": "broken",
        "finetune.sts-b.s2": "failed",
    }
    study = read_study(example)
    table = glue_table(study)
    assert "7 of 15 runs finished" in summary(study, table)
    assert (cell(table, "cola", "runs"), cell(table, "cola", "planned")) == (1, 3)
    assert cell(table, "qnli", "status") == "not started"
    shown = readable(table)
    assert shown[shown["Task"] == "CoLA"].iloc[0]["Seeds"] == "2 (of 3)"


def test_a_planned_task_whose_runs_all_failed_says_so(example):
    for seed in range(3):
        change(example, f"finetune.cola.s{seed}", status="failed", failure={"reason": "out of memory"})
    table = glue_table(read_study(example))
    assert cell(table, "cola", "status") == "failed" and np.isnan(cell(table, "cola", "mean"))
    assert cell(table, "cola", "published_bert_base") == 0.51


def test_a_folder_without_a_record_has_not_started(example):
    place = example / "runs" / "finetune.qnli.s0"
    write_json(place / "job.json", {"run": place.name})
    assert states(example)[place.name] == "not started"
    study = read_study(example)
    assert "10 of 15 runs finished (1 broken, 1 failed, 3 not started)" in summary(study, glue_table(study))
    held = lock(place / ".lock")
    assert states(example)[place.name] == "running"
    held.close()


def test_a_record_that_contradicts_its_predictions_is_named(example):
    change(example, "finetune.cola.s0", metrics={"validation": {"matthews": 0.99}})
    fault = next(f for f in read_study(example).faults if f["run"] == "finetune.cola.s0")
    assert fault["state"] == "contradiction" and "says validation matthews = 0.9900" in fault["why"]


def test_lost_and_broken_predictions_keep_the_score_and_are_named(example):
    (example / "runs" / "finetune.cola.s0" / "predictions.parquet").unlink()
    (example / "runs" / "finetune.rte.s0" / "predictions.parquet").write_bytes(b"PAR1 cut")
    assert states(example)["finetune.cola.s0"] == states(example)["finetune.rte.s0"] == "unchecked"
    table = glue_table(read_study(example))
    assert cell(table, "cola", "runs") == 3 and np.isnan(cell(table, "cola", "example_low"))


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(example):
    change(example, "finetune.cola.s2", parameters={"epochs": 3.0, "batch_size": 16, "lr": 5e-5, "max_length": 64})
    rows = glue_table(read_study(example)).query("task == 'cola'").set_index("settings")
    assert rows["runs"].to_dict() == {"lr=0.0001": 2, "lr=5e-05": 1}
    change(example, "finetune.rte.s0", protocol="original")
    table = glue_table(read_study(example))
    assert sorted(table[table["task"] == "rte"]["protocol"]) == ["carved", "original"]
    assert any("flatters the score" in note for note in notes(table))


def test_seeds_with_other_examples_get_no_interval_over_examples(example):
    change_predictions(
        example,
        "finetune.cola.s1",
        lambda rows: rows.assign(label=1 - rows["label"], prediction=1 - rows["prediction"]),
    )
    change_predictions(example, "finetune.rte.s2", lambda rows: rows.assign(example_id="other/" + rows["example_id"]))
    study = read_study(example)
    faults = {f["run"]: f for f in study.faults if f["state"] == "different examples"}
    assert (
        set(faults) == {"finetune.cola.s1", "finetune.rte.s2"}
        and "those of finetune.cola.s0" in faults["finetune.cola.s1"]["why"]
    )
    table = glue_table(study)
    assert np.isnan(cell(table, "cola", "example_low")) and np.isnan(cell(table, "rte", "example_low"))
    assert cell(table, "cola", "runs") == 3 and not np.isnan(cell(table, "sts-b", "example_low"))
    assert "CoLA by" not in summary(study, table)  # beyond the chance of examples nothing is known


def test_the_order_of_the_examples_does_not_matter(example):
    before = glue_table(read_study(example))
    change_predictions(example, "finetune.cola.s1", lambda rows: rows[::-1])
    after = read_study(example)
    assert "finetune.cola.s1" not in states(example)
    assert cell(glue_table(after), "cola", "example_low") == cell(before, "cola", "example_low")


def test_every_interval_over_examples_holds_its_score(example):
    rows = glue_table(read_study(example)).query("status == 'done'")
    assert ((rows["example_low"] <= rows["mean"]) & (rows["mean"] <= rows["example_high"])).all()


def test_different_code_in_one_row_is_named(example):
    for seed, code in enumerate(("aa", "aa", "bb")):
        change(example, f"finetune.cola.s{seed}", fingerprints={"code": code})
    fault = next(f for f in read_study(example).faults if f["run"] == "finetune.cola.s2")
    assert fault["state"] == "different code" and fault["why"] == "bb, averaged with finetune.cola.s0 of aa"
    assert "finetune.cola.s1" not in states(example)


@pytest.mark.parametrize(
    "versions, codes, commit, fingerprint",
    [
        (("1+c", "1+c"), ("aa", "aa"), "1+c", "aa in all runs"),
        (
            ("1+c", "1+c-dirty"),
            ("aa", "aa"),
            "1+c; 1 of 2 runs had uncommitted files in the clone",
            "aa in all runs: the package code was identical, with and without uncommitted files",
        ),
        (
            ("1+c-dirty", "1+c-dirty"),
            ("aa", "aa"),
            "1+c; 2 of 2 runs had uncommitted files in the clone",
            "aa in all runs: the package code was identical",
        ),
        (("1+c", "1+d"), ("aa", "bb"), "1+c / 1+d", "aa in 1 runs, bb in 1 runs"),
        (("1+c", "1+c"), ("aa", None), "1+c", "aa in 1 runs, not recorded in 1"),
    ],
)
def test_the_environment_says_which_code(example, versions, codes, commit, fingerprint):
    runs = ("finetune.cola.s0", "finetune.cola.s1")
    only(example, *runs)
    for run, version, code in zip(runs, versions, codes):
        change(example, run, code_version=version, fingerprints={"code": code})
    found = environment(read_study(example)).set_index("Item")["Value"]
    assert (found["Code"], found["Code fingerprint"]) == (commit, fingerprint)


def test_a_margin_must_survive_both_intervals(example):
    "Three seeds that agree, on twelve examples: steady, and yet within the chance of examples."
    runs = [f"finetune.cola.s{seed}" for seed in range(3)]
    only(example, *runs)
    labels = np.array([0, 1] * 6)
    rows = pd.DataFrame(
        {
            "split": "validation",
            "example_id": [f"validation/{i}" for i in range(12)],
            "label": labels,
            "prediction": np.r_[labels[:8], 1 - labels[8:]],
        }
    )
    for run in runs:
        change_predictions(example, run, lambda _: rows)
        change(example, run, metrics={"validation": {"accuracy": 8 / 12}}, baselines={"validation": {"accuracy": 0.5}})
    study = read_study(example)
    table = glue_table(study)
    assert cell(table, "cola", "low") > 0.5 > cell(table, "cola", "example_low")
    assert "is better than the trivial baseline on 0 of 1 tasks; undecided on CoLA (+16.7, " in summary(study, table)


def test_an_undefined_correlation_counts_as_zero(example):
    change(example, "finetune.sts-b.s0", metrics={"validation": {"pearson": None, "spearman": None}})
    change_predictions(example, "finetune.sts-b.s0", lambda rows: rows.assign(prediction=2.5))
    assert states(example)["finetune.sts-b.s0"] == "undefined score"
    study = read_study(example)
    table, tidy = glue_table(study), scores(study)
    assert tidy[tidy["run"] == "finetune.sts-b.s0"]["value"].tolist() == [0.0, 0.0]
    assert cell(table, "sts-b", "undefined") == 1 and cell(table, "sts-b", "collapsed_reasons") == "constant prediction"
    assert any("undefined and counted as 0" in note for note in notes(table))


def test_one_run_has_no_interval_over_seeds(example):
    only(example, "finetune.cola.s0")
    study = read_study(example)
    table = glue_table(study)
    assert np.isnan(table.loc[0, "sd"]) and not np.isnan(table.loc[0, "example_low"])
    assert "±" not in readable(table).loc[0, "Score"] and "95 % over seeds" not in readable(table)
    assert "is better than the trivial baseline on 0 of 1 tasks; no claim (one seed) on CoLA" in summary(study, table)


@pytest.mark.parametrize("encoder", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_the_published_number_of_the_very_encoder_has_its_own_column(example, encoder):
    only(example, "finetune.cola.s0", "finetune.mrpc.s0")
    for task in ("cola", "mrpc"):
        change(example, f"finetune.{task}.s0", encoder=encoder)
    table = glue_table(read_study(example))
    assert cell(table, "cola", "published") == 0.51 and cell(table, "cola", "published_source") == "BERTVision README"
    assert cell(table, "cola", "difference") == pytest.approx(cell(table, "cola", "mean") - 0.51)
    assert cell(table, "mrpc", "published") == 0.887
    said = " ".join(notes(table))
    assert (
        "Published BERTVision numbers" in said
        and "Published GluonNLP numbers" in said
        and "epoch chosen on this split by F1" in said
    )


def test_the_notes_speak_only_of_sources_that_are_shown(example):
    only(example, "finetune.mrpc.s0")
    said = " ".join(notes(glue_table(read_study(example))))
    assert "GluonNLP" in said and "BERTVision" not in said


def test_a_doubtful_published_number_is_marked(example):
    only(example, "finetune.mrpc.s0")
    change(example, "finetune.mrpc.s0", encoder="bert-large-uncased")
    study = read_study(example)
    table = glue_table(study)
    shown = readable(table)
    assert shown.loc[0, "Published"] == "80.1†" and "Difference" not in shown  # 1,725 rows there, 408 here
    assert table["difference"].isna().all() and "published value" not in summary(study, table)
    assert any(note.startswith("† MRPC") and "test file" in note for note in legend(table))


def test_both_mnli_splits_have_a_row(example):
    only(example, "finetune.rte.s0")
    path = example / "runs" / "finetune.rte.s0"
    rows = pd.read_parquet(path / "predictions.parquet")
    rows["split"] = "validation_matched"
    rows.to_parquet(path / "predictions.parquet", index=False)
    found = read_json(path / "record.json")["metrics"]["validation"]
    change(
        example,
        path.name,
        task="mnli",
        metrics={"selection": found, "validation_matched": found, "validation_mismatched": found},
    )
    shown = readable(glue_table(read_study(example)))
    assert shown["Metric"].tolist() == ["Accuracy (matched)", "Accuracy (mismatched)"]
    assert shown["Published BERT-base"].tolist() == ["82.6", "83.1"]


def test_an_unknown_task_and_metric_are_reported_too(example):
    only(example, "finetune.cola.s0")
    change(example, "finetune.cola.s0", task="my-task", metrics={"validation": {"word_error": 0.5}})
    shown = readable(glue_table(read_study(example)))
    assert shown.loc[0, ["Task", "Metric", "Score"]].tolist() == ["my-task", "word error", "50.0"]
    make_report("glue", example)


class Balance(HTMLParser):
    "Checks that tags close in order and that nothing is fetched."

    def __init__(self, text):
        super().__init__()
        self.open, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and not v.startswith(("data:", "#"))]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_files_are_small_and_stand_alone(example):
    (example / "report").mkdir()
    (example / "report" / "shares.png").write_bytes(b"of an earlier report")
    place = make_report("glue", example)
    assert sorted(p.name for p in place.iterdir()) == [
        "loss.png",
        "notebook.ipynb",
        "report.html",
        "scores.png",
        "selection.png",
        "table.csv",
        "table.md",
    ]
    assert all(p.stat().st_size < 150_000 for p in place.glob("*.png"))
    page = (place / "report.html").read_text(encoding="utf-8")
    found = Balance(page)
    assert not found.open and not found.links and len(page) < 1_000_000
    assert str(example.parent) not in page + (place / "table.md").read_text() + (place / "table.csv").read_text()


def test_what_a_readme_shows(example):
    place = make_report("glue", example)
    text = excerpt(place)
    assert (place / "table.md").read_text().startswith("# Generated example")
    assert "#" not in text and "Peak GiB" not in text and "10 of 15 runs finished" in text
    head = next(line for line in text.splitlines() if line.startswith("| Task"))
    assert head == "| Task | Metric | Encoder | Score | Trivial | Published BERT-base | Seeds | Examples/s |"
    with pytest.raises(DataError, match="table.md cannot be read"):
        excerpt(example)


def test_the_time_of_a_resumed_run_is_at_least_that_of_its_phases(example):
    change(example, "finetune.cola.s0", seconds={"load": 1.0, "train": 60.0, "total": 20.0})
    tidy = scores(read_study(example)).set_index("run")
    assert tidy.loc["finetune.cola.s0", "seconds"] == 61.0 and tidy.loc["finetune.cola.s1", "seconds"] == 4.5


def test_the_csv_holds_fractions_in_full(example):
    table = glue_table(read_study(example))
    again = pd.read_csv(make_report("glue", example) / "table.csv")
    assert list(again) == list(table) and len(again) == len(table)
    assert again["mean"].dropna().tolist() == pytest.approx(table["mean"].dropna().tolist(), abs=1e-15)


def test_the_report_only_reads_and_repeats_itself(example, monkeypatch):
    read = lambda: {
        p.relative_to(example): p.read_bytes() for p in sorted((example / "runs").rglob("*")) if p.is_file()
    }
    before, first = read(), {p.name: p.read_bytes() for p in make_report("glue", example).iterdir()}
    monkeypatch.chdir(example / "report")  # where the runner executes the notebook
    again = {p.name: p.read_bytes() for p in make_report("glue", "..").iterdir()}
    assert {name for name in first if again[name] != first[name]} <= {"notebook.ipynb"}  # cells get new ids
    assert read() == before


def test_text_from_outside_is_escaped(example):
    write_json(example / "plan.json", read_json(example / "plan.json") | {"title": "<script>alert(1)</script> & $more"})
    change(example, "finetune.sts-b.s2", failure={"reason": "<b>bold</b>"})
    page = (make_report("glue", example) / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>bold" not in page and "&amp; $more" in page


def test_figures_without_anything_to_draw(tmp_path):
    write_json(tmp_path / "none" / "plan.json", {"study": "none", "jobs": []})
    study = read_study(tmp_path / "none")
    for plot in (plot_scores, plot_loss, plot_selection):
        assert plot(study, glue_table(study)).axes
    report = make_report("glue", tmp_path / "none")
    assert "0 of 0 runs finished" in (report / "table.md").read_text()


def test_no_study_and_no_room(example, tmp_path):
    with pytest.raises(DataError, match="holds no study"):
        read_study(tmp_path / "nowhere")
    (example / "report" / "table.md").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        make_report("glue", example)


def committed(tmp_path, study, *runs):
    "A study of some committed runs."
    for run in runs:
        shutil.copytree(OUTPUTS / study / "runs" / run, tmp_path / study / "runs" / run)
    return read_study(tmp_path / study)


def test_collapse_is_a_fact_of_today(example):
    change_predictions(example, "finetune.rte.s0", lambda rows: rows.assign(prediction=1))
    change(example, "finetune.rte.s2", collapsed=None)
    change(example, "finetune.cola.s0", collapsed="one class")
    study = read_study(example)
    assert {run: r["collapsed"] for run, r in study.runs.items() if r["collapsed"]} == {
        "finetune.rte.s0": "one class",
        "finetune.rte.s2": "one class",
    }
    assert tally(study).endswith("; 2 collapsed (finetune.rte.s0, finetune.rte.s2).")
    told = [r for r in remarks(study) if "Collapse is computed" in r]
    assert (
        len(told) == 1
        and "finetune.cola.s0 (none, recorded: one class), finetune.rte.s0 (one class, recorded: none)" in told[0]
    )


def test_a_committed_run_without_a_correlation_counts_as_collapsed(tmp_path):
    study = committed(tmp_path, "glue-small", "lora.sts-b.minilm-l6.s0", "lora.sts-b.minilm-l6.s1")
    assert [r["collapsed"] for r in study.runs.values()] == ["pearson 0", None]
    assert wide(glue_table(study)).iloc[0]["STS-B Pearson"].endswith(" (1 of 2 collapsed)")


def test_what_an_encoder_has_read_is_said_whatever_the_record_says(tmp_path):
    study = committed(tmp_path, "squad-small", "finetune.squad1-articles.minilm-l6.s0", "bidaf.squad1-articles.s0")
    told = [r for r in remarks(study) if "tuned on training texts" in r]
    assert (
        len(told) == 1
        and told[0].startswith("SQuAD 1.1, articles: the published weights of minilm-l6")
        and "(1 run; 1 of their records did not say so)" in told[0]
    )


@pytest.mark.parametrize(
    "answered, f1, losses",
    [
        ([0] * 6, [0.0] * 6, [1.0]),
        ([1] * 6, [0.0] * 6, [1.0]),
        ([1, 0] * 3, [0.5, 0.0] * 3, [1.0]),
        ([1] * 6, [1.0] * 6, [float("nan")]),
    ],
)
def test_today_s_rule_for_answers_is_that_of_the_runs(answered, f1, losses):
    from bertvision.data.tasks import get_task
    from bertvision.qa.grading import collapse_reason

    rows = pd.DataFrame({"prediction": answered, "label": [1, 0, 1, 0, 1, 1], "answer_f1": f1})
    assert answers_collapse(rows["prediction"], rows["label"], rows["answer_f1"], losses) == collapse_reason(
        get_task("squad2"), rows, losses
    )


def test_runs_and_models_are_counted_in_their_own_units(example):
    study = read_study(example)
    run = study.runs["finetune.rte.s2"]
    heads = {f"heads.rte/{v}": run | {"of": "heads.rte", "variant": v} for v in ("a", "b", "c")}
    study = replace(study, runs=study.runs | heads, jobs=[*study.jobs, {"run": "heads.rte"}])
    assert tally(study) == (
        "11 of 16 runs finished (1 broken, 1 failed, 3 not started); 4 of the 13 models that they scored collapsed "
        "(finetune.rte.s2, heads.rte/a, heads.rte/b, heads.rte/c)."
    )


def test_trainable_is_a_range_where_tasks_differ(example):
    for run in ("finetune.cola.s0", "finetune.rte.s0", "finetune.mrpc.s0"):
        change(example, run, parameters_count={"trainable": 770})
    change(example, "finetune.sts-b.s0", parameters_count={"trainable": 385})
    assert wide(glue_table(read_study(example)))["Trainable"].tolist() == ["385 to 770"]


def test_the_name_of_an_encoder_hides_nothing(example):
    unsigned = make_report("glue", example).joinpath("scores.png").read_bytes()
    for path in (*example.glob("runs/*/record.json"), example / "plan.json"):
        path.write_text(path.read_text().replace("example-encoder", "minilm-l6"))
    report = make_report("glue", example)
    assert weights_remark("minilm-l6") in excerpt(report)
    assert weights_remark("minilm-l6") in report.joinpath("report.html").read_text()
    height = lambda png: int.from_bytes(png[20:24], "big")
    assert height(report.joinpath("scores.png").read_bytes()) > height(unsigned), "a line below the figure says it, too"
    readme = (OUTPUTS.parent / "nbs" / "index.ipynb").read_text()
    assert "tuned for sentence similarity on more than a billion pairs" in readme


def test_a_score_that_is_no_number_is_named_and_leaves_no_mean(example):
    change(example, "finetune.cola.s1", metrics={"validation": {"matthews": None}})
    study = read_study(example)
    faults = {f["run"]: f for f in study.faults if f["state"] == "undefined score"}
    assert faults["finetune.cola.s1"]["why"] == "validation matthews is undefined: it leaves its method without a mean"
    table = glue_table(study)
    assert np.isnan(cell(table, "cola", "mean")) and readable(table).iloc[0]["Score"] == "undefined"
    assert wide(table)["CoLA Matthews"].tolist() == ["undefined"]
    assert "cola" not in set(growth(study)["task"]) and "rte" in set(growth(study)["task"])


def test_predictions_without_the_reported_split_are_unchecked(example):
    change_predictions(example, "finetune.cola.s0", lambda rows: rows.assign(split="elsewhere"))
    (example / "runs" / "finetune.rte.s0" / "predictions.parquet").unlink()
    assert states(example)["finetune.cola.s0"] == states(example)["finetune.rte.s0"] == "unchecked"
    table = glue_table(read_study(example))
    assert (
        cell(table, "cola", "unchecked") == cell(table, "rte", "unchecked") == 1
        and cell(table, "sts-b", "unchecked") == 0
    )
    assert any(
        "records alone" in n and "CoLA, example-encoder (1 of 3 runs); RTE, example-encoder (1 of 3 runs)" in n
        for n in notes(table)
    )


def test_a_method_with_only_collapsed_runs_is_named(example):
    for seed in range(3):
        change_predictions(example, f"finetune.rte.s{seed}", lambda rows: rows.assign(prediction=1))
    table = glue_table(read_study(example))
    assert wide(table)["RTE Accuracy"].iloc[0].endswith(" (all 3 collapsed)")
    assert readable(table).set_index("Task").loc["RTE", "Score"].endswith(" (all 3 collapsed)")
