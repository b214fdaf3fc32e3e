"""The table of published numbers: complete, consistent, and honest about its doubtful cells."""

import subprocess
import sys

import pytest

from bertvision.data.published import FLAGS, SOURCES, published, published_value
from bertvision.data.tasks import TASKS
from bertvision.metrics.scores import METRICS

BASE, LARGE = "bert-base-uncased", "bert-large-uncased"
LATEST = {"QQP": 4, "QNLI": 4, "MNLI": 8, "RTE": 4, "SST": 4, "MSR": 4, "CoLA": 4, "STSB": 8}
OLD = {"SQuAD 2.0": 4, "SST-2": 4, "MSR": 4, "RTE": 4, "QNLI": 4, "QQPairs": 4, "STSB": 4, "COLA": 2, "MNLI": 4}


def cells(source):
    table = published()
    return table[table["source"] == source]


@pytest.mark.parametrize(
    "source, prefix, counts",
    [
        ("BERTVision README", "Latest Results, ", LATEST),
        ("BERTVision README, old", "OLD, ", OLD),
        ("BERTVision final table", "", {"bert_base_vs_bertvision.png": 48}),
        ("Depth probes", "", {"results, dev": 8}),
        ("CS224N reports", "", {"baseline, dev": 2}),
        ("GluonNLP model zoo", "", {"BERT for Sentence Classification": 6, "BERT for Question Answering on SQuAD": 6}),
    ],
)
def test_every_cell_of_every_table_is_there(source, prefix, counts):
    assert cells(source)["table"].value_counts().to_dict() == {prefix + name: n for name, n in counts.items()}


def test_each_column_of_the_latest_results_has_its_ten_numbers():
    columns = cells("BERTVision README").groupby(["model", "encoder"])
    assert columns.size().to_dict() == {(m, e): 10 for m in ("fine-tuning", "AdapterPooler") for e in (BASE, LARGE)}
    todo = columns["as_printed"].apply(lambda c: (c == "TODO").sum()).to_dict()
    assert todo == {
        ("fine-tuning", BASE): 0,
        ("fine-tuning", LARGE): 0,
        ("AdapterPooler", BASE): 6,
        ("AdapterPooler", LARGE): 4,
    }


def test_the_final_table_has_twelve_numbers_a_column():
    assert set(cells("BERTVision final table").groupby(["model", "encoder"]).size()) == {12}


def test_no_cell_stands_twice():
    assert not published().duplicated(["source", "table", "task", "model", "encoder", "split", "metric"]).any()


def test_names_are_known():
    table = published()
    assert set(table["flag"]) == set(FLAGS) and set(table["source"]) == set(SOURCES)
    assert set(table["task"]) <= set(TASKS)
    assert set(table["metric"]) <= set(METRICS)
    assert set(table["model"]) == {"fine-tuning", "AdapterPooler"}
    glue = table[table["task"].isin(list(TASKS))]
    assert all(
        split in (*TASKS[task].report, "test", *["cs224n_dev"] * (task == "squad2"))
        for task, split in zip(glue["task"], glue["split"])
    )


def test_values_are_fractions_and_say_what_was_printed():
    for row in published().itertuples():
        if row.flag == "not_given":
            assert row.as_printed in ("TODO", "NA") and row.value != row.value
            continue
        number = float(row.as_printed.rstrip("%"))
        assert 0 <= row.value <= 1
        assert row.value == pytest.approx(number / 100 if number > 1 else number, abs=1e-12)


def test_what_is_wrong_is_flagged_and_explained():
    table = published()
    assert (table[~table["flag"].isin(["ok", "not_given"])]["remark"] != "").all()
    msr = table[(table["task"] == "mrpc") & (table["source"] != "GluonNLP model zoo")]
    assert (msr["split"] == "test").all() and set(msr["flag"]) == {"test_file", "mislabelled", "not_given"}
    collapsed = table[table["flag"] == "collapsed"]
    assert sorted(collapsed["as_printed"]) == [".2067", ".5307", "0.0"]
    assert sorted(table[table["flag"] == "typo"]["task"]) == ["qnli", "qnli", "qqp", "qqp"]  # titled RTE


def test_two_exchanged_scores_have_their_names_back():
    wrong = published()[published()["flag"] == "exchanged"]
    assert set(wrong["source"]) == {"GluonNLP model zoo"} and set(zip(wrong["task"], wrong["encoder"])) == {
        ("squad2", LARGE)
    }
    assert dict(zip(wrong["metric"], wrong["as_printed"])) == {
        "exact_match": "77.96",
        "answer_f1": "81.02",
    }  # printed the other way round
    assert wrong["remark"].str.contains("exact match cannot exceed F1").all()


def test_mislabelled_is_either_corrected_or_a_repeated_accuracy():
    table = published()
    wrong = table[table["flag"] == "mislabelled"]
    assert set(wrong["metric"]) == {"exact_match", "f1"}
    assert (
        wrong.loc[wrong["metric"] == "exact_match", "remark"]
        .str.contains("called accuracy and holds exact match")
        .all()
    )
    assert wrong.loc[wrong["metric"] == "f1", "remark"].str.contains("which is accuracy again").all()


def test_the_old_micro_f1_repeats_the_accuracy():
    old = cells("BERTVision README, old")
    for row in old[(old["metric"] == "f1") & (old["flag"] == "mislabelled")].itertuples():
        same = old[(old["table"] == row.table) & (old["model"] == row.model) & (old["metric"] == "accuracy")]
        assert same["value"].item() == row.value


@pytest.mark.parametrize(
    "task, metric, split, base, large",
    [
        ("cola", "matthews", "validation", "0.510", "0.583"),
        ("sst-2", "accuracy", "validation", "0.924", "0.929"),
        ("mrpc", "accuracy", "validation", "88.7%", "0.801"),
        ("sts-b", "pearson", "validation", "0.863", "0.890"),
        ("sts-b", "spearman", "validation", "0.861", "0.891"),
        ("qqp", "accuracy", "validation", "0.887", "0.897"),
        ("mnli", "accuracy", "validation_matched", "0.826", "0.857"),
        ("mnli", "accuracy", "validation_mismatched", "0.831", "0.853"),
        ("qnli", "accuracy", "validation", "0.904", "0.915"),
        ("rte", "accuracy", "validation", "0.661", "0.625"),
    ],
)
def test_the_number_beside_ours(task, metric, split, base, large):
    assert published_value(task, BASE, metric, split)["as_printed"] == base
    assert published_value(task, LARGE, metric, split)["as_printed"] == large


def test_a_number_that_nobody_published_is_none():
    assert published_value("mrpc", BASE, "f1") is None
    assert published_value("cola", "minilm-l6", "matthews") is None
    assert published_value("squad2", BASE, "exact_match")["source"] == "BERTVision final table"
    assert (
        published_value("squad2", LARGE, "exact_match")["source"] == "BERTVision final table"
    )  # exchanged cells do not come first by themselves


@pytest.mark.parametrize(
    "task, encoder, metric, split, printed",
    [
        ("mrpc", BASE, "accuracy", "validation", "88.7%"),
        ("rte", BASE, "accuracy", "validation", "70.8%"),
        ("sst-2", BASE, "accuracy", "validation", "93%"),
        ("mnli", BASE, "accuracy", "validation_matched", "84.55%"),
        ("mnli", BASE, "accuracy", "validation_mismatched", "84.66%"),
        ("xnli-zh", "bert-base-chinese", "accuracy", "validation", "78.27%"),
        ("squad1", BASE, "answer_f1", "validation", "88.53"),
        ("squad1", BASE, "exact_match", "validation", "80.98"),
        ("squad1", LARGE, "answer_f1", "validation", "90.97"),
        ("squad1", LARGE, "exact_match", "validation", "84.05"),
        ("squad2", LARGE, "exact_match", "validation", "77.96"),
        ("squad2", LARGE, "answer_f1", "validation", "81.02"),
    ],
)
def test_a_study_of_gluonnlp_is_held_against_gluonnlp(task, encoder, metric, split, printed):
    found = published_value(task, encoder, metric, split, source="GluonNLP model zoo")
    assert (found["source"], found["as_printed"]) == ("GluonNLP model zoo", printed)


def test_the_import_is_light():
    code = "import sys, bertvision.data.published; print([m for m in ('pandas', 'torch', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_layers_are_printed_ones_and_silence_is_flagged():
    from bertvision.data.published import PROBE_FLAGS, SILENT_CS224N, published_probes

    table = published_probes()
    assert not table.duplicated(["source", "task", "encoder", "side", "layer", "metric"]).any() and set(
        table["metric"]
    ) <= set(METRICS)
    assert (
        table["value"].between(0, 1).all() and set(table["flag"]) <= set(PROBE_FLAGS) and (table["remark"] != "").all()
    )
    assert table[table["layer"].isna()]["remark"].str.contains("all layers at once").all()
    whole = table["metric"].isin(["exact_match", "answer_f1"])
    assert ((table["flag"] == "trivial") == ((table["value"] - SILENT_CS224N).abs() < 1e-4))[whole].all()
    curve = published_probes(encoder="albert-base-v2", side="fine-tuned").query("metric == 'answer_f1'")
    assert curve["layer"].tolist() == [1, 4, 6, 8, 9, 10, 11, 12] and curve["printed"].iloc[-1] == "80.81"
    assert set(published_probes(side="pretrained")["layer"].dropna()) == {10, 11}


def subsets():
    from bertvision.data.published import published_subsets

    return published_subsets()


def test_every_cell_of_the_importance_sampling_tables_is_there():
    table = subsets()
    table["kind"] = table["task"]
    seeds = {
        ("3. Random, v1, seed " + s, task): n
        for s in ("0", "42", "250", "500", "999")
        for task, n in (("mnli", 20), ("hans", 60))
    }
    assert table.groupby(["place", "kind"]).size().to_dict() == seeds | {
        ("1. Results", "mnli"): 4,
        ("3. Random, v2, seed 42", "mnli"): 32,
        ("3. 512 random", "mnli"): 30,
        ("4. Clusters, v1", "mnli"): 4,
        ("4. Clusters, v2, with bug and DBSCAN", "mnli"): 28,
        ("4. 16 clusters, with bug and DBSCAN", "mnli"): 14,
        ("4. 512 centroids", "mnli"): 30,
        ("Freezing", "mnli"): 24,
        ("Freezing", "hans"): 12,
        ("nbs/graph_plots_paper.ipynb", "mnli"): 20,
        ("nbs/graph_plots_paper.ipynb", "hans"): 4,
    }
    whole = ["place", "encoder", "strategy", "percent", "count", "epoch", "seed", "split", "heuristic", "label"]
    assert not table[table["flag"] != "range"].duplicated(whole).any()
    assert (table["percent"].notna() ^ table["count"].notna())[table["flag"] != "range"].all()


def test_subset_values_say_what_was_printed():
    from bertvision.data.published import SUBSET_FLAGS, SUBSET_SOURCES

    table = subsets()
    assert (
        table["value"].between(0, 1).all()
        and set(table["flag"]) == set(SUBSET_FLAGS)
        and set(table["source"]) == set(SUBSET_SOURCES)
    )
    for row in table.itertuples():
        assert row.value == pytest.approx(
            float(row.printed) / (1 if row.task == "hans" and row.flag != "range" else 100), abs=1e-9
        )
    assert (table[~table["flag"].isin(["ok"])]["remark"] != "").all()
    assert set(table["metric"]) <= set(METRICS)
    assert (table["heuristic"].isin(["lexical_overlap", "subsequence", "constituent"]) == (table["task"] == "hans"))[
        table["flag"] != "range"
    ].all()


def test_flipped_cells_have_a_reading_that_says_it_is_one():
    table = subsets()
    flipped = table[table["flag"] == "flipped"]
    assert len(flipped) == 5 * 60 + 6 and (flipped["reading"] + flipped["value"]).tolist() == pytest.approx(
        [1] * len(flipped)
    )
    assert flipped["remark"].str.contains("reading = 1 − printed, exact only if").all()
    means = flipped.groupby("label")["value"].mean()
    assert means["entailment"] < 0.2 and means["non-entailment"] > 0.8  # the wrong way round as printed
    assert (table[table["flag"] == "untrained"]["reading"].isna()).all()


def test_swapped_rows_are_those_where_matched_is_above_mismatched():
    table = subsets()
    random = table[table["place"].str.startswith("3. Random, v1") & (table["task"] == "mnli")]
    wide = random.pivot(index=["seed", "percent"], columns="split", values="value")
    odd = wide[wide["validation_matched"] > wide["validation_mismatched"]].index
    swapped = table[table["flag"] == "swapped"]
    assert set(odd) == {(0, 80), (500, 100)} == set(zip(swapped["seed"], swapped["percent"]))
    back = swapped.pivot(index=["seed", "percent"], columns="split", values=["value", "reading"])
    assert (back["value"]["validation_matched"] == back["reading"]["validation_mismatched"]).all()


def test_faulty_clusters_copies_and_single_seeds_are_flagged():
    table = subsets()
    bug = table[table["place"].str.contains("with bug")]
    assert set(bug["flag"]) == {"not_clusters", "other_epochs"} and bug["remark"].str.contains("modulo 512").all()
    assert ((bug["flag"] == "other_epochs") == (bug["epoch"] != 3)).all()
    copies = table[table["flag"] == "repeated"]
    assert (
        set(zip(copies["seed"], copies["percent"])) == {(0, 50), (999, 50), (250, 100), (999, 100)}
        and copies["remark"].str.contains("a copy").all()
    )
    assert set(table[(table["place"] == "3. Random, v2, seed 42")]["flag"]) == {"one_seed"}
    assert set(table[table["flag"] == "heading"]["encoder"]) == {"albert-base-v2"}
    later = table[(table["encoder"] == "bert-base-uncased") & (table["task"] == "mnli")].pivot(
        index="percent", columns="strategy", values="value"
    )
    gain = later["diverse"] - later["random"]
    assert 0.03 < gain[10] < 0.05 and abs(gain[100]) < 0.005
