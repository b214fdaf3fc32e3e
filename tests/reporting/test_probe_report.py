"""The report of layers with less than a whole study: missing runs, no control, one seed, one side."""

import shutil

import numpy as np
import pandas as pd
import pytest
from example_studies_probes import example_probes
from reports import make_report, report_text
from scipy import stats
from study_lab import change, keep, replan

from bertvision.core.errors import DataError
from bertvision.core.io import read_json
from bertvision.metrics.comparisons import BETTER, NO_CLAIM, UNDECIDED, rule
from bertvision.reporting.layer_scores import (
    against_trivial,
    control_table,
    final,
    headline,
    layer_differences,
    layer_names,
    probe_rows,
    profile_table,
    profiles,
)
from bertvision.reporting.layers import (
    missing_rows,
    plot_difference,
    plot_heat,
    plot_profiles,
    plot_similarity,
    plot_training,
    published_curves,
    similarity,
)
from bertvision.reporting.phrases import claim_table
from bertvision.reporting.results import read_study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return example_probes(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def example(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "example-probes")


def text(folder):
    "The report in words; all figures are drawn."
    written = report_text("probes", folder)
    assert "beyond chance" not in written and "nan" not in in_words(written)
    return written


def in_words(written):
    "The sentences of a report: what stands outside its tables."
    return "\n".join(line for line in written.splitlines() if not line.startswith(("|", "#", "!")))


def test_every_number_of_the_csv_is_that_of_the_records(example):
    make_report("probes", example)
    table = (
        pd.read_csv(example / "report" / "table.csv")
        .query("task == 'cola' and side == 'random' and through == 'mix'")
        .set_index("layer")
    )
    records = [read_json(example / "runs" / f"random.cola.s{seed}" / "record.json") for seed in range(3)]
    for layer in range(7):
        values = [
            next(v for v in r["variants"] if v["variant"] == f"mix-{layer}:mean")["metrics"]["validation"]["matthews"]
            for r in records
        ]
        assert table.loc[layer, "mean"] == pytest.approx(np.mean(values)) and table.loc[layer, "sd"] == pytest.approx(
            np.std(values, ddof=1)
        )


def test_the_report_repeats_itself_and_names_no_place(example, monkeypatch):
    written = lambda study: {p.name: p.read_bytes() for p in make_report("probes", study).iterdir()}
    first = written(example)
    monkeypatch.chdir(example / "report")
    assert written("..") == first
    assert all(str(example.parent).encode() not in data for data in first.values())
    assert set(first) == {
        "notebook.ipynb",
        "table.md",
        "table.csv",
        "report.html",
        "profiles.png",
        "mixes.png",
        "heat.png",
        "difference.png",
        "training.png",
        "similarity.png",
    }


def test_only_the_pretrained_side(example):
    keep(example, lambda run: run.startswith("pretrained") and "sts-b" not in run)
    study = read_study(example)
    rows = probe_rows(study)
    differences = layer_differences(study, rows)
    assert len(differences) == 0 and plot_difference(differences) is None
    assert plot_training(rows) is None and plot_similarity(similarity(study)) is None
    said = text(example)
    assert "is undecided against the trivial predictor (49.0) at every layer" in said
    assert "fine-tuning" not in said and "## Fine-tuned minus pretrained" not in said
    assert "a random encoder" not in said


def test_one_seed_has_no_spread_and_no_claim(example):
    keep(example, lambda run: run.endswith("s0") and "sts-b" not in run)
    study = read_study(example)
    rows = probe_rows(study)
    assert "±" not in profile_table(headline(rows)).to_string() and profiles(rows)["sd"].isna().all()
    for found in (layer_differences(study, rows), against_trivial(study, rows)):
        assert (found["seeds"] == 1).all() and found[["low", "high", "p", "p_holm"]].isna().all(axis=None)
        assert (
            set(found["verdict"]) == {NO_CLAIM}
            and set(found["reason"]) == {"one seed"}
            and found["difference"].notna().all()
        )
    said = text(example)
    assert "nan" not in said and "no claim: one seed" in said and "No difference is claimed" in said
    assert "gets no claim against the pretrained one at any layer: one seed" in said


def test_a_state_after_the_final_norm_is_marked_beside_others(example):
    """A step between raw states and one after a norm is no finding; where all have passed it, nothing is marked."""

    def labels(rows):
        axes = plot_profiles(rows).axes[0]
        return [t for t in axes.get_legend_handles_labels()[1] if "final norm" in t]

    rows = probe_rows(read_study(example))
    last = rows["layer"] == rows["layer"].max()
    for normed, marked in ((False, False), (last, True), (True, False)):
        rows["normed"] = normed
        table = profile_table(rows)
        assert bool(labels(rows)) == marked == ("Note" in table)
        cells = table[[c for c in table if c.isdigit()]]
        assert cells.apply(lambda c: c.str.endswith("†").any()).tolist() == [*[False] * (cells.shape[1] - 1), marked]


def test_without_controls_and_codes(example):
    for place in (example / "runs").iterdir():

        def bare(record):
            for v in record["variants"]:
                v["probe"] = {k: v["probe"][k] for k in ("layer", "through")}
            record["cka"] = None

        change(example, place.name, bare)
    study = read_study(example)
    rows = probe_rows(study)
    assert len(control_table(rows)) == 0 and rows[["control", "selectivity", "bits", "compression"]].isna().all(
        axis=None
    )
    said = text(example)
    assert "the control task" not in said and "## Above the control task" not in said and "CKA" not in said
    assert not any(
        "control" in t.get_text() for fig in [plot_profiles(rows)] for legend in fig.legends for t in legend.get_texts()
    )


def test_without_mixes_there_is_no_expected_layer(example):
    for place in (example / "runs").iterdir():
        change(
            example,
            place.name,
            lambda r: r.update(variants=[v for v in r["variants"] if v["probe"]["through"] == "layer"]),
        )
    rows = probe_rows(read_study(example))
    assert "Expected layer" not in profile_table(rows)
    assert not (make_report("probes", example) / "mixes.png").exists()


def test_a_probe_that_is_missing_leaves_a_gap(example):
    change(
        example,
        "pretrained.cola.s0",
        lambda r: r.update(variants=[v for v in r["variants"] if v["variant"] != "layer-3:mean"]),
    )
    for seed in range(3):
        change(
            example,
            f"fine-tuned.cola.s{seed}",
            lambda r: r.update(variants=[v for v in r["variants"] if v["probe"]["layer"] != 2]),
        )
    study = read_study(example)
    shown = profile_table(headline(final(probe_rows(study)))).set_index(["Task", "Side"])
    assert shown.loc[("CoLA", "fine-tuned"), "2"] == "" and shown.loc[("CoLA", "fine-tuned"), "Expected layer"] == ""
    d = layer_differences(study, probe_rows(study)).query("task == 'cola'").set_index("layer")
    assert 2 not in d.index and d.loc[3, "seeds"] == 2 and d.loc[4, "seeds"] == 3
    text(example)


def test_lost_predictions_leave_differences_without_a_claim(example):
    for seed in range(3):
        (example / "runs" / f"fine-tuned.squad2.s{seed}" / "predictions.parquet").unlink()
    study = read_study(example)
    rows = probe_rows(study)
    d = layer_differences(study, rows).query("metric == 'answer_f1'")
    assert d["difference"].notna().all() and d[["low", "p"]].isna().all(axis=None) and set(d["verdict"]) == {NO_CLAIM}
    assert set(d["reason"]) == {"predictions missing"}
    assert not ((rows["metric"] == "has_answer_f1") & (rows["side"] == "fine-tuned") & (rows["task"] == "squad2")).any()
    assert "unchecked" in text(example) and plot_heat(rows).axes


def by_hand(example, task, layer, sides):
    "Contributions of each seed and example to accuracy-like scores, read from the files alone."
    out = []
    for side in sides:
        runs = [
            pd.read_parquet(example / "runs" / f"{side}.{task}.s{seed}" / "predictions.parquet") for seed in range(3)
        ]
        name = f"layer-{layer}:{'mean' if task == 'cola' else 'each'}"
        out.append([r[(r["variant"] == name) & (r["split"] == "validation")].sort_values("example_id") for r in runs])
    return out


def last_layer(example):
    "The comparison of the last layers on SQuAD 2.0, by F1."
    study = read_study(example)
    differences = layer_differences(study, probe_rows(study))
    return differences.query("metric == 'answer_f1' and layer == 6").to_dict("records")


def crossed_and_seeds(d):
    "Difference, interval and p of the rule for (seeds, examples) contributions, in plain numpy."
    n, count = d.shape
    mean, over_examples, over_seeds = d.mean(), d.mean(axis=1), d.mean(axis=0)
    v_seeds, v_examples = np.var(over_examples, ddof=1) / n, np.var(over_seeds, ddof=1) / count
    rest = sum((d[k, i] - over_examples[k] - over_seeds[i] + mean) ** 2 for k in range(n) for i in range(count)) / (
        (n - 1) * (count - 1) * n * count
    )
    variance = max(v_seeds + v_examples - rest, v_seeds, v_examples)
    freedom = variance / (v_seeds / (n - 1) + v_examples / (count - 1))
    ways = [(np.sqrt(variance), freedom), (np.sqrt(v_seeds), n - 1)]
    half = max(stats.t.ppf(0.975, df) * error for error, df in ways)
    return mean, mean - half, mean + half, max(2 * stats.t.sf(abs(mean) / error, df) for error, df in ways)


def test_a_difference_of_layers_again_from_the_files(example):
    (row,) = last_layer(example)
    tuned, plain = by_hand(example, "squad2", 6, ("fine-tuned", "pretrained"))
    d = np.stack([a["answer_f1"].to_numpy() - b["answer_f1"].to_numpy() for a, b in zip(tuned, plain)])
    assert (row["difference"], row["low"], row["high"], row["p"]) == pytest.approx(crossed_and_seeds(d), abs=1e-12)
    assert row["verdict"] == BETTER and (row["seeds"], row["examples"]) == (3, 300)


def test_a_layer_against_the_trivial_predictor_again_from_the_files(example):
    (row,) = (
        against_trivial(read_study(example), probe_rows(read_study(example)))
        .query("task == 'squad2' and side == 'fine-tuned' and layer == 5")
        .to_dict("records")
    )
    (tuned,) = by_hand(example, "squad2", 5, ("fine-tuned",))
    d = np.stack([a["answer_f1"].to_numpy() - (a["label"].to_numpy() == 0) for a in tuned])  # it never answers
    assert (row["difference"], row["low"], row["high"], row["p"]) == pytest.approx(crossed_and_seeds(d), abs=1e-12)


def test_the_family_is_the_whole_table_and_no_claim_has_seeds_that_disagree(example):
    study = read_study(example)
    rows = probe_rows(study)
    for found in (layer_differences(study, rows), against_trivial(study, rows)):
        p, n, shown = found["p"].to_numpy(), len(found), claim_table(found, layer_names)
        order, holm = np.argsort(p, kind="stable"), np.empty(n)
        holm[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(n, 0, -1)))
        assert found["p_holm"].to_numpy() == pytest.approx(holm) and len(shown) == n
        assert ((found["verdict"] == BETTER) == ((holm < 0.05) & (found["difference"] > 0))).all()
        assert f"the {n} comparisons of this table" in rule(found)
        assert set(found["verdict"]) == {BETTER, UNDECIDED} and list(shown["Verdict"]) == list(found["verdict"])
        open_ = found[(found["low"] <= 0) & (found["high"] >= 0)]
        assert len(open_) and set(open_["verdict"]) == {UNDECIDED}
    d = layer_differences(study, rows).query("metric == 'matthews'").set_index("layer")
    values = rows.query("task == 'cola' and metric == 'matthews' and through == 'layer' and epoch.isna()").pivot(
        index="seed", columns=["side", "layer"], values="value"
    )
    for layer, row in d.iterrows():  # the interval over seeds alone lies inside the one that is shown
        each = (values["fine-tuned"] - values["pretrained"])[layer]
        half = stats.t.ppf(0.975, 2) * each.std() / np.sqrt(3)
        assert row["low"] <= each.mean() - half + 1e-12 and row["high"] >= each.mean() + half - 1e-12


def test_a_claim_that_hangs_on_a_collapsed_seed_is_fragile(example):
    """All fine-tuned seeds fall to silence but one, which no claim can stand on alone."""
    for seed in (1, 2):
        path = example / "runs" / f"pretrained.squad2.s{seed}" / "predictions.parquet"
        rows = pd.read_parquet(path)
        silent = rows["variant"] == "layer-6:each"
        right = (rows["label"] == 0).astype(float)
        rows.loc[silent, "prediction"] = 0
        for name in ("exact_match", "answer_f1"):
            rows.loc[silent, name] = right[silent]
        rows.to_parquet(path, index=False)

        score = float(right[silent].mean())

        def silence(record, score=score):
            for v in record["variants"]:
                if v["variant"] == "layer-6:each":
                    v["metrics"]["validation"] = dict.fromkeys(v["metrics"]["validation"], score)

        change(example, f"pretrained.squad2.s{seed}", silence)
    (row,) = last_layer(example)
    assert row["collapsed"] == 2 and row["verdict"] == BETTER and row["fragile"] and np.isnan(row["p_without"])
    said = text(example)
    assert "better, fragile: without collapsed seeds +3" in in_words(said)
    assert any("| better, fragile" in line for line in said.splitlines() if line.startswith("|"))


def test_a_record_that_has_the_answerable_questions_keeps_its_own(example):
    before = probe_rows(read_study(example)).query(
        "metric == 'has_answer_f1' and run.str.startswith('pretrained.squad2.s0')"
    )

    def told(record):
        for v in record["variants"]:
            v["metrics"]["validation"]["has_answer_f1"] = float(
                before.set_index("run").loc[f"pretrained.squad2.s0/{v['variant']}", "value"]
            )

    change(example, "pretrained.squad2.s0", told)
    study = read_study(example)
    after = probe_rows(study).query("metric == 'has_answer_f1' and run.str.startswith('pretrained.squad2.s0')")
    assert len(after) == len(before) == 14 and not [f for f in study.faults if f["state"] == "contradiction"]


def test_what_differs_in_more_than_seed_side_and_epoch_is_not_averaged(example):
    change(example, "pretrained.cola.s2", lambda r: r["parameters"].update(batch_size=32))
    rows = probe_rows(read_study(example)).query("task == 'cola' and side == 'pretrained'")
    assert sorted(rows["model"].unique()) == [
        "pretrained (pretrained, batch_size=16, carved)",
        "pretrained (pretrained, batch_size=32, carved)",
    ]
    text(example)


def test_an_undefined_correlation_counts_as_nothing(example):
    for place in (example / "runs").glob("*.cola.*"):

        def scores(record):
            record["task"] = "sts-b"
            for v in record["variants"]:
                v["metrics"] = {"validation": {"pearson": None}}
            for v in record["variants"]:
                v["probe"]["control"] = {"validation": {"pearson": None}}
            record["baselines"] = {"validation": {"pearson": 0.0}}

        change(example, place.name, scores)
        (place / "predictions.parquet").unlink()
    replan(example, ".cola.", task="sts-b")
    rows = probe_rows(read_study(example)).query("task == 'sts-b'")
    assert (rows["value"] == 0).all() and (rows["control"] == 0).all()
    assert "gets no claim against the trivial predictor (0.0) at any layer: predictions missing" in text(example)


def test_nothing_has_finished(example):
    shutil.rmtree(example / "runs")
    study = read_study(example)
    rows = probe_rows(study)
    assert not len(rows) and set(profile_table(rows, missing_rows(study))["Best layer"]) == {"not started"}
    said = text(example)
    assert "0 of 24 runs finished (24 not started)" in said.splitlines()[2] and "| not started |" in said
    assert not list((example / "report").glob("*.png"))


def test_a_study_without_probes_says_so(example, tmp_path):
    from example_studies import example_study

    other = example_study(tmp_path)
    assert "No probe has finished." in text(other)
    with pytest.raises(DataError, match="holds no study"):
        make_report("probes", tmp_path / "nowhere")


def test_a_task_that_is_not_known_is_shown(example):
    for place in (example / "runs").glob("*.cola.*"):
        change(example, place.name, lambda r: r.update(task="mine"))
    replan(example, ".cola.", task="mine")
    said = text(example)
    assert "mine (Matthews, example-encoder)" in said


def test_parts_of_squad_are_held_against_the_whole(example):
    rows = probe_rows(read_study(example))
    assert set(published_curves(rows.assign(task="squad2-articles"))["encoder"]) == {
        "albert-base-v2",
        "bert-base-uncased",
        "distilbert-base-uncased",
    }
    assert len(published_curves(rows.assign(task="cola"))) == 0
