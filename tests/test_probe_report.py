"""The report of layers with less than a whole study: missing runs, no control, one seed, one side."""
import shutil

import numpy as np
import pandas as pd
import pytest

from bertvision.core import DataError, read_json
from bertvision.studies.layers import (main_table, paragraph, plot_difference, plot_heat, plot_profiles, plot_similarity, plot_training, published_curves,
                                       to_markdown, write_probes_report)
from bertvision.studies.probes import (against_trivial, control_table, example_probes, final, headline, layer_differences, probe_rows,
                                       profile_table, profiles)
from bertvision.studies.results import read_study
from study_lab import change, keep, replan


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return example_probes(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def example(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "example-probes")


def text(folder):
    "The report in words; all figures are drawn, none is written."
    study = read_study(folder)
    rows = probe_rows(study)
    differences = layer_differences(study, rows)
    for fig in (plot_profiles(rows), plot_profiles(rows, "mix"), plot_heat(rows)): assert fig.axes
    plot_difference(study, differences), plot_training(rows), plot_similarity(study)
    lead = paragraph(study, rows, differences)
    assert "\n" not in lead and "nan" not in lead
    return to_markdown(study, rows, differences, lead)


def test_every_number_of_the_csv_is_that_of_the_records(example):
    write_probes_report(example)
    table = pd.read_csv(example / "report" / "table.csv").query("task == 'cola' and side == 'random' and through == 'mix'").set_index("layer")
    records = [read_json(example / "runs" / f"random.cola.s{seed}" / "record.json") for seed in range(3)]
    for layer in range(7):
        values = [next(v for v in r["variants"] if v["variant"] == f"mix-{layer}:mean")["metrics"]["validation"]["matthews"] for r in records]
        assert table.loc[layer, "mean"] == pytest.approx(np.mean(values)) and table.loc[layer, "sd"] == pytest.approx(np.std(values, ddof=1))


def test_the_report_repeats_itself_and_names_no_place(example, monkeypatch):
    first = {p.name: p.read_bytes() for p in write_probes_report(example).iterdir()}
    monkeypatch.chdir(example / "report")
    assert {p.name: p.read_bytes() for p in write_probes_report("..").iterdir()} == first
    assert all(str(example.parent).encode() not in data for data in first.values())
    assert set(first) == {"table.md", "table.csv", "report.html", "profiles.png", "mixes.png", "heat.png", "difference.png", "training.png", "similarity.png"}


def test_only_the_pretrained_side(example):
    keep(example, lambda run: run.startswith("pretrained") and "sts-b" not in run)
    study = read_study(example)
    rows = probe_rows(study)
    assert len(layer_differences(study, rows)) == 0 and plot_difference(study) is None and plot_training(rows) is None and plot_similarity(study) is None
    said = text(example)
    assert "no layer of the pretrained encoder beats the trivial baseline" in said and "fine-tuning" not in said.partition("<!--")[0]
    assert "a random encoder" not in said and "## Fine-tuned minus pretrained" not in said


def test_one_seed_has_no_spread_and_only_the_interval_over_examples(example):
    keep(example, lambda run: run.endswith("s0") and "sts-b" not in run)
    study = read_study(example)
    rows = probe_rows(study)
    assert "±" not in profile_table(headline(rows)).to_string() and profiles(rows)["sd"].isna().all()
    differences = layer_differences(study, rows)
    assert (differences["seeds"] == 1).all() and differences["low"].isna().all() and differences["beyond"].any()
    assert against_trivial(study, rows)["beats"].any() and "nan" not in text(example)


def test_without_controls_and_codes(example):
    for place in (example / "runs").iterdir():
        def bare(record):
            for v in record["variants"]: v["probe"] = {k: v["probe"][k] for k in ("layer", "through")}
            record["cka"] = None
        change(example, place.name, bare)
    study = read_study(example)
    rows = probe_rows(study)
    assert len(control_table(rows)) == 0 and rows[["control", "selectivity", "bits", "compression"]].isna().all(axis=None)
    said = text(example)
    assert "the control task" not in said.partition("<!--")[0] and "## Above the control task" not in said and "CKA" not in said.partition("<!--")[0]
    assert not any("control" in t.get_text() for fig in [plot_profiles(rows)] for legend in fig.legends for t in legend.get_texts())


def test_without_mixes_there_is_no_expected_layer(example):
    for place in (example / "runs").iterdir():
        change(example, place.name, lambda r: r.update(variants=[v for v in r["variants"] if v["probe"]["through"] == "layer"]))
    rows = probe_rows(read_study(example))
    assert "Expected layer" not in profile_table(rows) and not (write_probes_report(example) / "mixes.png").exists()


def test_a_probe_that_is_missing_leaves_a_gap(example):
    change(example, "pretrained.cola.s0", lambda r: r.update(variants=[v for v in r["variants"] if v["variant"] != "layer-3:mean"]))
    for seed in range(3): change(example, f"fine-tuned.cola.s{seed}", lambda r: r.update(variants=[v for v in r["variants"] if v["probe"]["layer"] != 2]))
    study = read_study(example)
    shown = profile_table(headline(final(probe_rows(study)))).set_index(["Task", "Side"])
    assert shown.loc[("CoLA", "fine-tuned"), "2"] == "" and shown.loc[("CoLA", "fine-tuned"), "Expected layer"] == ""
    d = layer_differences(study).query("task == 'cola'").set_index("layer")
    assert 2 not in d.index and d.loc[3, "seeds"] == 2 and d.loc[4, "seeds"] == 3
    text(example)


def test_lost_predictions_leave_differences_over_seeds(example):
    for seed in range(3): (example / "runs" / f"fine-tuned.squad2.s{seed}" / "predictions.parquet").unlink()
    study = read_study(example)
    d = layer_differences(study).query("metric == 'answer_f1'")
    assert d["low"].notna().all() and d["p"].isna().all() and not d["beyond"].any()
    rows = probe_rows(study)
    assert not ((rows["metric"] == "has_answer_f1") & (rows["side"] == "fine-tuned") & (rows["task"] == "squad2")).any()
    assert "unchecked" in text(example) and plot_heat(rows).axes


def test_a_record_that_has_the_answerable_questions_keeps_its_own(example):
    before = probe_rows(read_study(example)).query("metric == 'has_answer_f1' and run.str.startswith('pretrained.squad2.s0')")
    def told(record):
        for v in record["variants"]: v["metrics"]["validation"]["has_answer_f1"] = float(before.set_index("run").loc[f"pretrained.squad2.s0/{v['variant']}", "value"])
    change(example, "pretrained.squad2.s0", told)
    study = read_study(example)
    after = probe_rows(study).query("metric == 'has_answer_f1' and run.str.startswith('pretrained.squad2.s0')")
    assert len(after) == len(before) == 14 and not [f for f in study.faults if f["state"] == "contradiction"]


def test_what_differs_in_more_than_seed_side_and_epoch_is_not_averaged(example):
    change(example, "pretrained.cola.s2", lambda r: r["parameters"].update(batch_size=32))
    rows = probe_rows(read_study(example)).query("task == 'cola' and side == 'pretrained'")
    assert sorted(rows["model"].unique()) == ["pretrained (pretrained, batch_size=16, carved)", "pretrained (pretrained, batch_size=32, carved)"]
    text(example)


def test_an_undefined_correlation_counts_as_nothing(example):
    for place in (example / "runs").glob("*.cola.*"):
        def scores(record):
            record["task"] = "sts-b"
            for v in record["variants"]: v["metrics"] = {"validation": {"pearson": None}}
            for v in record["variants"]: v["probe"]["control"] = {"validation": {"pearson": None}}
            record["baselines"] = {"validation": {"pearson": 0.0}}
        change(example, place.name, scores)
        (place / "predictions.parquet").unlink()
    replan(example, ".cola.", task="sts-b")
    rows = probe_rows(read_study(example)).query("task == 'sts-b'")
    assert (rows["value"] == 0).all() and (rows["control"] == 0).all()
    assert "no layer of the pretrained encoder beats the trivial baseline (0.0)" in text(example)


def test_nothing_has_finished(example):
    shutil.rmtree(example / "runs")
    study = read_study(example)
    rows = probe_rows(study)
    assert not len(rows) and paragraph(study).startswith("0 of 24 runs finished (24 not started)")
    assert set(main_table(study, rows)["Best layer"]) == {"not started"}
    assert "not started" in text(example)
    assert sorted(p.name for p in write_probes_report(example).glob("*.png")) == ["heat.png", "profiles.png"]


def test_a_study_without_probes_says_so(example, tmp_path):
    from bertvision.studies.results import example_study

    other = example_study(tmp_path)
    assert "No probe has finished." in text(other)
    with pytest.raises(DataError, match="holds no study"): write_probes_report(tmp_path / "nowhere")


def test_a_task_that_is_not_known_is_shown(example):
    for place in (example / "runs").glob("*.cola.*"): change(example, place.name, lambda r: r.update(task="mine"))
    replan(example, ".cola.", task="mine")
    said = text(example)
    assert "mine (Matthews, example-encoder)" in said


def test_parts_of_squad_are_held_against_the_whole(example):
    rows = probe_rows(read_study(example))
    assert set(published_curves(rows.assign(task="squad2-articles"))["encoder"]) == {"albert-base-v2", "bert-base-uncased", "distilbert-base-uncased"}
    assert len(published_curves(rows.assign(task="cola"))) == 0
