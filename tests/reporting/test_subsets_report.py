"""The report of subsets on incomplete studies: missing and refused runs, one seed, one strategy, no HANS, no choice."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from example_studies_subsets import example_subsets
from reports import Drawn, make_report, report_text
from scipy import stats
from study_lab import change, keep, replan

from bertvision.core.errors import DataError
from bertvision.metrics.comparisons import rule
from bertvision.reporting.page import number
from bertvision.reporting.phrases import claim_table, fragile_note
from bertvision.reporting.results import read_study
from bertvision.reporting.subset_scores import (
    above_trivial,
    against_random,
    comparison_names,
    hans_rows,
    hans_table,
    missing_subsets,
    overlap_rows,
    reported,
    selection_rows,
    subset_means,
    subset_rows,
    subset_table,
)
from bertvision.reporting.subsets import (
    cluster_table,
    paragraph,
    plot_budgets,
    plot_epochs,
    plot_freezing,
    plot_hans,
    plot_map,
    plot_overlap,
    published_budgets,
    subcase_table,
)

E = "mnli.example-encoder"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return example_subsets(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def example(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "example-subsets")


def without_hans(study):
    for place in (study / "runs").iterdir():

        def bare(record):
            if not record.get("subset"):
                return
            record["hans"] = None
            for part in ("metrics", "baselines"):
                record[part].pop("hans", None)

        change(study, place.name, bare)
        if (path := place / "predictions.parquet").exists():
            pd.read_parquet(path).query("split != 'hans'").to_parquet(path, index=False)


def text(folder, figures=False):
    "The report in words; figures are drawn where asked for, none is written."
    said = report_text("subsets", folder, figures)
    assert not figures or Drawn.made["budgets"]
    lead = said.split("\n\n")[1]
    assert "nan" not in lead and lead.endswith(".")
    assert "beyond chance" not in said
    assert " nan" not in said and "|nan" not in said
    return said


def differences(study, split=""):
    return against_random(study, subset_means(subset_rows(study)), split)


def main_table(study):
    rows = subset_rows(study)
    means = subset_means(rows)
    return subset_table(study, rows, means, against_random(study, means))


def plain(table):
    "Rows of the main table for full training over epochs, by strategy."
    for column, value in (("Training", "epochs"), ("Frozen", "full")):
        if column in table:
            table = table[table[column] == value]
    return table.set_index("Strategy")


def test_every_number_is_that_of_the_records(example):
    make_report("subsets", example)
    table = pd.read_csv(example / "report" / "table.csv")
    for row in table.to_dict("records"):
        values = []
        for place in (example / "runs").iterdir():
            if not (place / "record.json").exists():
                continue
            r = json.loads((place / "record.json").read_text())
            if r["status"] != "done" or not r.get("subset") or row["split"] not in r["metrics"]:
                continue
            mine = (
                r["parameters"]["strategy"],
                r["parameters"]["data_pct"],
                r["subset"]["arm"],
                r["parameters"]["freeze"],
            )
            if mine == (row["strategy"], row["fraction"], row["arm"], row["freeze"]):
                values.append(r["metrics"][row["split"]]["accuracy"])
        assert (
            row["runs"] == len(values)
            and row["mean"] == pytest.approx(np.mean(values))
            and row["sd"] == pytest.approx(np.std(values, ddof=1))
        )
    shown = plain(main_table(read_study(example)))
    one = table.query("strategy == 'diverse' and fraction == 0.1 and split == 'validation_matched'").iloc[0]
    assert shown.loc["diverse", "10 %"].startswith(f"{number(one['mean'])}\u00a0±\u00a0{number(one['sd'])}")


def test_the_report_repeats_itself_and_names_no_place(example, monkeypatch):
    first = {p.name: p.read_bytes() for p in make_report("subsets", example).iterdir()}
    monkeypatch.chdir(example / "report")
    assert {p.name: p.read_bytes() for p in make_report("subsets", "..").iterdir()} == first
    assert all(str(example.parent).encode() not in data for data in first.values())
    assert set(first) == {
        "notebook.ipynb",
        "table.md",
        "table.csv",
        "report.html",
        "budgets.png",
        "hans.png",
        "epochs.png",
        "freezing.png",
        "seconds.png",
        "map.png",
        "overlap.png",
    }


def test_refused_runs_enter_nothing(example):
    refused = f"train.{E}.random.data_pct-0.05.s2"
    study = read_study(example)
    rows = subset_rows(study)
    hans = hans_rows(study, rows)
    assert (
        set(hans[hans["refused"] != ""]["run"]) == {refused}
        and not ((rows["split"] == "hans") & (rows["run"] == refused)).any()
    )
    cell = (
        hans_table(hans)
        .query("Training == 'epochs' and Frozen == 'full' and Strategy == 'random' and Budget == '5 %'")
        .iloc[0]
    )
    own = [
        study.runs[refused.replace("s2", f"s{n}")]["hans"]["heuristics"]["subsequence"]["entailment"] for n in (0, 1)
    ]
    assert cell["Seeds"] == "0, 1" and cell["subsequence, entailment"].startswith(number(np.mean(own)))
    line = next(l for l in plot_hans(hans).axes[1].lines if l.get_label() == "random")
    assert line.get_ydata()[0] == pytest.approx(100 * np.mean(own))
    d = differences(study, "hans").query("budget == '5 %'")
    assert (d["seeds"] == 2).all()
    said = text(example)
    assert "1 run was refused and left out" in said and f"HANS refused {refused}: accuracy" in said


def test_all_of_hans_refused(example):
    for place in (example / "runs").iterdir():

        def refuse(record):
            if not record.get("subset"):
                return
            record["hans"] = {"examples": 0, "heuristics": {}, "subcases": {}, "refused": "near chance"}
            for part in ("metrics", "baselines"):
                record[part].pop("hans", None)

        change(example, place.name, refuse)
    study = read_study(example)
    hans = hans_rows(study, subset_rows(study))
    assert plot_hans(hans) is None and len(hans_table(hans)) == 0 and len(subcase_table(study, subset_rows(study))) == 0
    assert "runs were refused and left out" in text(example, figures=True)


def test_a_deleted_run_shows_as_missing(example):
    before = plain(main_table(read_study(example)))
    assert (
        "of 3" not in before.loc["centroids", "20 %"]
        and before.loc["clusters", "10 %"].endswith("(2 of 3)")
        and before.loc["diverse", "40 %"].endswith("(2 of 3)")
    )
    shutil.rmtree(example / "runs" / f"train.{E}.centroids.data_pct-0.2.s1")
    study = read_study(example)
    rows = subset_rows(study)
    assert "(2 of 3)" in plain(main_table(study)).loc["centroids", "20 %"]
    for seed in (0, 2):
        shutil.rmtree(example / "runs" / f"train.{E}.centroids.data_pct-0.2.s{seed}")
    study = read_study(example)
    rows = subset_rows(study)
    assert plain(main_table(study)).loc["centroids", "20 %"] == "not started"
    assert [m["strategy"] for m in missing_subsets(study, rows)] == ["centroids"]
    assert "78 of 81" not in text(example) and "76 of 81 runs finished" in text(example)


def test_a_whole_strategy_or_step_that_never_ran_has_its_row(example):
    keep(example, lambda run: ".centroids." not in run and not run.startswith("frozen"), planned=True)
    study = read_study(example)
    subset_rows(study)
    table = main_table(study)
    assert (plain(table).loc["centroids", ["5 %", "10 %", "20 %", "40 %"]] == "not started").all()
    assert (table["Strategy"] == "Frozen parts").sum() == 4 and "not started" in text(example, figures=True)


def test_signs_of_the_differences(example):
    study = read_study(example)
    rows = subset_rows(study)
    d = differences(study)
    mean = (
        reported(rows)
        .query("arm == 'epochs' and freeze == 0")
        .pivot_table(index=["strategy", "fraction"], columns="seed", values="accuracy")
    )
    for r in d.to_dict("records"):
        each = (mean.loc[(r["strategy"], r["fraction"])] - mean.loc[("random", r["fraction"])]).dropna()
        assert (
            r["difference"] == pytest.approx(each.mean())
            and r["seeds"] == len(each)
            and r["ahead"] == (each > 1e-12).sum()
        )
        assert r["low"] <= r["difference"] <= r["high"]
    best = d[(d["strategy"] == "diverse") & (d["fraction"] == 0.05)].iloc[0]
    assert (
        best["verdict"] == "better"
        and set(d["strategy"]) == {"clusters", "centroids", "diverse"}
        and set(d["arm"]) == {"epochs"}
    )
    shown = plain(main_table(study))
    assert shown.loc["diverse", "5 %"].endswith("▲") and shown.loc["clusters", "5 %"].endswith("▼")


def test_no_claim_has_a_seed_interval_that_contains_zero(example):
    study = read_study(example)
    rows = subset_rows(study)
    claimed = 0
    for r in pd.concat([differences(study), differences(study, "hans")]).to_dict("records"):
        if r["verdict"] not in ("better", "worse"):
            continue
        ours, random = (
            rows[
                (rows["strategy"] == s)
                & (rows["fraction"] == r["fraction"])
                & (rows["arm"] == r["arm"])
                & (rows["freeze"] == r["freeze"])
                & (rows["split"] == r["split"])
            ].set_index("seed")["accuracy"]
            for s in (r["strategy"], "random")
        )
        each = (ours - random).dropna().to_numpy()
        half = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
        assert abs(each.mean()) > half and (r["low"] > 0 or r["high"] < 0) and r["p"] <= r["p_holm"] < 0.05
        claimed += 1
    assert claimed >= 3


def predictions_of(folder, run, split):
    rows = pd.read_parquet(folder / "runs" / run / "predictions.parquet")
    return rows[rows["split"] == split].sort_values("example_id")


def crossed_test(d):
    "Test (seeds, examples) differences, both factors random, and over seeds alone: (difference, low, high, p)."
    n, count = d.shape
    mean, by_seed, by_example = d.mean(), d.mean(axis=1), d.mean(axis=0)
    v_seed = ((by_seed - mean) ** 2).sum() / (n - 1) / n
    v_example = ((by_example - mean) ** 2).sum() / (count - 1) / count
    residual = sum((d[k, i] - by_seed[k] - by_example[i] + mean) ** 2 for k in range(n) for i in range(count))
    variance = max(v_seed + v_example - residual / ((n - 1) * (count - 1)) / (n * count), v_seed, v_example)
    freedom = variance / (v_seed / (n - 1) + v_example / (count - 1))
    found = []
    for v, df in ((variance, freedom), (v_seed, n - 1)):
        half = stats.t.ppf(0.975, df) * np.sqrt(v)
        found.append((mean - half, mean + half, 2 * stats.t.sf(abs(mean) / np.sqrt(v), df)))
    low, high = max((f[:2] for f in found), key=lambda ends: ends[1] - ends[0])
    return mean, low, high, max(f[2] for f in found)


def test_a_row_of_the_table_from_its_files(example):
    right = lambda run: predictions_of(example, run, "validation_matched").eval("label == prediction").to_numpy(float)
    runs = lambda strategy: [f"train.{E}.{strategy}.data_pct-0.05.s{seed}" for seed in range(3)]
    ours, random = (np.stack([right(run) for run in runs(strategy)]) for strategy in ("diverse", "random"))
    study = read_study(example)
    d = differences(study).query("strategy == 'diverse' and fraction == 0.05").iloc[0]
    assert tuple(d[["difference", "low", "high", "p"]]) == pytest.approx(crossed_test(ours - random), abs=1e-12)
    labels = predictions_of(example, runs("random")[0], "validation_matched")["label"]
    commonest = (labels == labels.value_counts().index[0]).to_numpy(float)
    above = (
        above_trivial(study, subset_means(subset_rows(study)))
        .query("strategy == 'random' and fraction == 0.05 and arm == 'epochs' and freeze == 0")
        .iloc[0]
    )
    assert tuple(above[["difference", "low", "high", "p"]]) == pytest.approx(
        crossed_test(random - commonest), abs=1e-12
    )
    shown = f"{number(d['difference'], sign=True)} | {number(d['low'])}\u00a0…\u00a0{number(d['high'])} |"
    assert f"| diverse | 5 % | Accuracy (matched) | {shown}" in text(example)


def test_a_claim_that_falls_without_collapsed_seeds_is_fragile(example):
    run = f"train.{E}.diverse.data_pct-0.05.s2"
    path = example / "runs" / run / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["split"] == "validation_matched", "prediction"] = 0
    rows.to_parquet(path, index=False)
    change(
        example,
        run,
        lambda r: r["metrics"]["validation_matched"].update(
            accuracy=float((rows.query("split == 'validation_matched'")["label"] == 0).mean())
        ),
    )
    study = read_study(example)
    assert study.runs[run]["collapsed"]
    d = differences(study).query("strategy == 'diverse' and fraction == 0.05").iloc[0]
    assert (
        d["collapsed"] == 1
        and d["difference_without"] > 0.05 > d["difference"]
        and d["verdict"] == "undecided"
        and not d["fragile"]
    )
    fragile = differences(study).assign(fragile=lambda t: t["verdict"] == "better", difference_without=0.01)
    rows = subset_rows(study)
    means, hans = subset_means(rows), hans_rows(study, rows)
    table = plain(subset_table(study, rows, means, fragile))
    assert table.loc["diverse", "10 %"].endswith("▲ fragile") and "Fragile: the claim falls" in fragile_note(fragile)
    assert "better, fragile: without collapsed seeds +1.0" in set(claim_table(fragile, comparison_names)["Verdict"])
    lead = paragraph(study, means, fragile, hans, above_trivial(study, means))
    assert "fragile: without collapsed seeds +1.0) at 10 %" in lead


def test_what_random_is_better_at_is_marked_as_such(example):
    for seed in range(3):  # exchange two strategies
        a, b = (example / "runs" / f"train.{E}.{s}.data_pct-0.05.s{seed}" for s in ("random", "diverse"))
        for place, name in ((a, "diverse"), (b, "random")):
            change(example, place.name, lambda r, name=name: r["subset"].update(strategy=name))
            change(example, place.name, lambda r, name=name: r["parameters"].update(strategy=name))
    study = read_study(example)
    subset_rows(study)
    assert plain(main_table(study)).loc["diverse", "5 %"].endswith("▼")
    said = text(example)
    assert (
        "diverse is better than random by " in said
        and "worse than random by 9.0 points (5.5\u00a0…\u00a012.5) at 5 %" in said
    )


def test_one_seed(example):
    keep(example, lambda run: run.endswith("s0"))
    study = read_study(example)
    rows = subset_rows(study)
    d = differences(study)
    above = above_trivial(study, subset_means(rows))
    assert subset_means(rows)["sd"].isna().all()
    for claims in (d, above, differences(study, "hans")):
        assert set(claims["verdict"]) == {"no claim"} and set(claims["reason"]) == {"one seed"}
        assert (claims["seeds"] == 1).all() and claims[["low", "high", "p", "p_holm"]].isna().all(axis=None)
        assert rule(claims).startswith("No difference is claimed")
    shown = main_table(study).to_string()
    assert not any(mark in shown for mark in "±▲▼")
    said = text(example, figures=True)
    assert said.partition("\n\n")[2].startswith("No strategy can be told from a random choice: no claim (one seed).")
    assert "no claim: one seed" in said and "No difference is claimed: a claim needs at least two seeds" in said
    assert "is better than" not in said and "worse than random" not in said


def test_one_seed_one_strategy_and_nothing_else(example):
    keep(example, lambda run: run.startswith("train") and ".random." in run and run.endswith("s0"))
    without_hans(example)
    for place in (example / "runs").iterdir():
        change(example, place.name, lambda r: r.update(history=None))
    study = read_study(example)
    rows = subset_rows(study)
    means, hans = subset_means(rows), hans_rows(study, rows)
    assert (
        len(differences(study)) == 0
        and len(hans) == 0
        and len(overlap_rows(study)) == 0
        and len(selection_rows(study)) == 0
        and len(cluster_table(study)) == 0
    )
    assert all(
        f is None
        for f in (plot_hans(hans), plot_epochs(study, rows), plot_freezing(means), plot_map(study), plot_overlap(study))
    )
    assert [ax.get_title() for ax in plot_budgets(means, differences(study)).axes] == ["MNLI: a fixed number of epochs"]
    said = text(example, figures=True)
    assert (
        "## HANS" not in said
        and "fixed number of steps," not in said.partition("\n## ")[0]
        and "random reaches" in said
    )
    assert sorted(p.name for p in make_report("subsets", example).glob("*.png")) == ["budgets.png", "seconds.png"]


def test_without_random_there_is_nothing_to_compare_with(example):
    keep(example, lambda run: ".diverse." in run)
    assert "there is no random choice to compare with" in text(example, figures=True)


def test_lost_predictions_leave_no_claim(example):
    for seed in range(3):
        (example / "runs" / f"train.{E}.diverse.data_pct-0.1.s{seed}" / "predictions.parquet").unlink()
    (example / "runs" / f"train.{E}.diverse.data_pct-0.05.s0" / "predictions.parquet").unlink()
    study = read_study(example)
    d = differences(study).query("strategy == 'diverse'").set_index("fraction")
    assert np.isnan(d.loc[0.1, "p"]) and (d.loc[0.1, "verdict"], d.loc[0.1, "reason"]) == (
        "no claim",
        "predictions missing",
    )
    means = (
        subset_means(reported(subset_rows(study)))
        .query("fraction == 0.1 and arm == 'epochs'")
        .set_index("strategy")["mean"]
    )
    assert d.loc[0.1, "difference"] == pytest.approx(means["diverse"] - means["random"])
    assert (d.loc[0.05, "seeds"], d.loc[0.05, "note"]) == (2, "predictions missing (seed 0)")
    said = text(example)
    assert (
        "unchecked" in said and "no claim: predictions missing" in said and "| predictions missing (seed 0) |" in said
    )
    assert "diverse is " in said and "without a claim at 10 % (predictions missing)" in said


def test_other_seeds_than_those_of_random_are_named(example):
    for seed in (0, 1):
        shutil.rmtree(example / "runs" / f"train.{E}.centroids.data_pct-0.2.s{seed}")
    shutil.rmtree(example / "runs" / f"train.{E}.random.data_pct-0.2.s2")
    d = differences(read_study(example)).query("strategy == 'centroids'").set_index("fraction").loc[0.2]
    assert (d["verdict"], d["reason"], d["seeds"]) == ("no claim", "no seed in common", 0)
    assert "no claim: no seed in common" in text(example)


def test_two_protocols_are_not_compared_with_each_other(example):
    for seed in range(3):
        change(example, f"train.{E}.diverse.data_pct-0.05.s{seed}", lambda r: r.update(protocol="original"))
    d = differences(read_study(example))
    assert d.query("strategy == 'diverse' and fraction == 0.05").empty and len(d) == 11


def test_counts_are_budgets_of_their_own(example):
    for seed in range(3):
        for s in ("random", "centroids"):
            change(
                example,
                f"train.{E}.{s}.data_pct-0.05.s{seed}",
                lambda r: r["parameters"].update(data_pct=0.0, data_count=45),
            )
    study = read_study(example)
    subset_rows(study)
    table = main_table(study)
    assert (
        plain(table).loc["random", "45 examples"]
        and plain(table).loc["random", "5 %"] == ""
        and list(table).index("45 examples") < list(table).index("10 %")
    )
    assert set(differences(study).query("budget == '45 examples'")["strategy"]) == {"centroids"}
    text(example, figures=True)


def test_what_was_trained_twice_counts_once(example):
    for seed in range(3):
        a, b = f"train.{E}.random.data_pct-0.2.s{seed}", f"frozen.{E}.freeze-0.s{seed}"
        shutil.copytree(example / "runs" / a, example / "runs" / b)
        change(example, b, lambda r: r.update(step="frozen"))
    assert (
        subset_means(reported(subset_rows(read_study(example))))
        .query("strategy == 'random' and fraction == 0.2 and freeze == 0 and arm == 'epochs'")["runs"]
        .item()
        == 3
    )


def test_other_settings_are_not_averaged(example):
    change(example, f"train.{E}.diverse.data_pct-0.1.s2", lambda r: r["parameters"].update(lr=3e-5))
    change(
        example, f"train.{E}.diverse.data_pct-0.2.s2", lambda r: r["parameters"].update(hans_examples=100)
    )  # no part of the training
    rows = subset_rows(read_study(example)).query("strategy == 'diverse'")
    assert set(rows[rows["fraction"] == 0.1]["settings"]) == {"lr=0.0001", "lr=3e-05"} and set(
        rows[rows["fraction"] == 0.2]["settings"]
    ) == {"lr=0.0001"}
    text(example, figures=True)


def test_other_epochs_are_no_point_of_the_curve(example):
    for seed in range(3):
        change(
            example,
            f"train.{E}.centroids.data_pct-0.05.s{seed}",
            lambda r: r["parameters"].update(epochs=15.0, data_pct=0.0),
        )
    rows = subset_rows(read_study(example)).query("arm == 'epochs' and freeze == 0")
    assert set(rows[rows["budget"] == "45 examples"]["settings"]) == {"epochs=15.0"} and set(
        rows[rows["budget"] != "45 examples"]["settings"]
    ) == {"epochs=3.0"}
    text(example)


def test_published_points_are_the_readings_of_sound_rows(example):
    study = read_study(example)
    points = published_budgets(subset_rows(study)).set_index(["encoder", "strategy", "percent"])
    assert points.loc[("albert-base-v2", "clusters", 2), "flag"] == "not_clusters" and points.loc[
        ("albert-base-v2", "clusters", 2), "accuracy"
    ] == pytest.approx(0.6945)
    assert points.loc[("albert-base-v1", "random", 100), "accuracy"] == pytest.approx(
        np.mean([80.11207, 80.15282, 80.08150, 80.08150, 80.08150]) / 100
    )
    said = text(example)
    assert "81.0†" in said and "It is a reading, not a measurement" in said
    row = next(l for l in said.splitlines() if l.startswith("| lexical overlap | entailment |"))
    assert all(
        float(a) + float(b) == pytest.approx(100, abs=0.11)
        for a, b in (c.split(" → ") for c in row.split(" | ")[2:][:-1])
    )


def test_a_task_that_is_not_known_and_nothing_published(example):
    for place in (example / "runs").iterdir():
        change(example, place.name, lambda r: r.update(task="mine"))
    replan(example, "", task="mine")
    said = text(example, figures=True)
    assert "mine (example-encoder)" in said and "Published" not in said and "reading" not in said


def test_nothing_has_finished(example):
    shutil.rmtree(example / "runs")
    study = read_study(example)
    assert not len(subset_rows(study))
    said = text(example, figures=True)
    assert "not started" in said and said.split("\n\n")[1].endswith("No subset has been trained.")
    assert sorted(p.name for p in make_report("subsets", example).glob("*.png")) == ["budgets.png"]


def test_a_study_of_something_else_says_so(example, tmp_path):
    from example_studies import example_study

    assert "No subset has been trained." in text(example_study(tmp_path))
    with pytest.raises(DataError, match="holds no study"):
        make_report("subsets", tmp_path / "nowhere")
