"""XNLI: both layouts of its files, the hub's, the protocols, zero-shot scores, plan and report. All rows but those of the `real` tests are generated."""

import os
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
from example_studies_languages import example_languages
from reports import make_report
from scipy import stats
from study_lab import change, run_small

from bertvision.core.errors import DataError, ParameterError, StudyError
from bertvision.core.io import read_json, write_json
from bertvision.data.sources import load_task
from bertvision.data.splits import part_of, split
from bertvision.data.tasks import XNLI_LANGUAGES, get_task, input_files
from bertvision.engine.forecast import forecast
from bertvision.engine.grid import load_study
from bertvision.engine.plan import job_state, plan
from bertvision.evaluation.languages import load_languages, score_languages, toy_languages, unknown_share
from bertvision.models.encoders import load_encoder
from bertvision.reporting.glue import readable
from bertvision.reporting.languages import (
    comparison_rule,
    language_means,
    language_notes,
    language_rows,
    language_table,
    paragraph,
    plot_languages,
)
from bertvision.reporting.page import number
from bertvision.reporting.results import glue_table, read_study

HEADER = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 promptID pairID genre "
    "label1 label2 label3 label4 label5 sentence1_tokenized sentence2_tokenized match"
).split()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy_languages(tmp_path_factory.mktemp("data"), ("en", "de", "th"), train=60, test=30)


def official(source, target, languages, kinds=("dev", "test")):
    """The authors' single files, 19 columns, made of the files by language."""
    for kind in kinds:
        lines = ["\t".join(HEADER)]
        for code in languages:
            for i, row in enumerate(
                (source / "XNLI" / f"{kind}-{code}.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
            ):
                one, two, label = row.split("\t")
                told = dict.fromkeys(HEADER, "") | {
                    "language": code,
                    "gold_label": label,
                    "sentence1": one,
                    "sentence2": two,
                    "pairID": str(i),
                    "genre": "face-to-face",
                    "match": "True",
                }
                lines.append("\t".join(told[c] for c in HEADER))
        path = target / "XNLI" / "XNLI-1.0" / f"xnli.{kind}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


# ---- files


def test_the_official_files_give_the_same_content(root, tmp_path):
    official(root, tmp_path, ("de", "en", "th"))
    shutil.copytree(root / "XNLI" / "XNLI-MT-1.0", tmp_path / "XNLI" / "XNLI-MT-1.0")
    for code in ("en", "de", "th"):
        ours, theirs = load_task(f"xnli-{code}", root), load_task(f"xnli-{code}", tmp_path)
        assert ours.fingerprint == theirs.fingerprint and list(ours.splits) == ["train", "validation", "test"]
        assert theirs["test"]["example_id"][:2] == ["test/0", "test/1"]
    with pytest.raises(DataError, match="xnli.dev.tsv: no row has language 'zh'; there are 'de', 'en', 'th'"):
        load_task("xnli-zh", tmp_path, splits=("validation",))


def test_a_file_of_one_language_counts_before_that_of_all(root, tmp_path):
    official(root, tmp_path, ("de", "th"))
    shutil.copy(root / "XNLI" / "test-th.tsv", tmp_path / "XNLI" / "test-th.tsv")
    assert [p.name for p in input_files("xnli-th", tmp_path)] == ["xnli.dev.tsv", "test-th.tsv"]
    assert [p.name for p in input_files("xnli-de", tmp_path)] == ["xnli.dev.tsv", "xnli.test.tsv"]


def test_an_error_names_the_line_of_the_whole_file(root, tmp_path):
    path = official(root, tmp_path, ("de", "th")) / "XNLI" / "XNLI-1.0" / "xnli.test.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text(
        "\n".join(
            [
                *lines[:35],
                lines[35]
                .replace("\tneutral\t", "\tmaybe\t")
                .replace("\tentailment\t", "\tmaybe\t")
                .replace("\tcontradiction\t", "\tmaybe\t"),
                *lines[36:],
            ]
        ),
        encoding="utf-8",
    )
    with pytest.raises(
        DataError, match="xnli.test.tsv:36: label 'maybe': expected one of entailment, neutral, contradiction"
    ):
        load_task("xnli-th", tmp_path, splits=("test",))
    load_task("xnli-de", tmp_path, splits=("test",))


def test_the_translated_training_set(root, tmp_path):
    train = load_task("xnli-de", root)["train"]
    text = (root / "XNLI/XNLI-MT-1.0/multinli/multinli.train.de.tsv").read_text(encoding="utf-8")
    assert "contradictory" in text and "contradiction" not in text and set(train["label"]) == {0, 1, 2}
    shutil.copytree(root / "XNLI", tmp_path / "XNLI")
    (tmp_path / "XNLI/XNLI-MT-1.0/multinli").rename(tmp_path / "XNLI/multinli")
    assert load_task("xnli-de", tmp_path).fingerprint == load_task("xnli-de", root).fingerprint
    shutil.rmtree(tmp_path / "XNLI/multinli")
    with pytest.raises(
        DataError, match=r"XNLI-MT-1.0/multinli/multinli.train.de.tsv: no such file .* needs it for the split 'train'"
    ):
        load_task("xnli-de", tmp_path)


def test_the_test_file_is_not_taken_for_dev(root, tmp_path):
    shutil.copytree(root / "XNLI", tmp_path / "XNLI")
    (tmp_path / "XNLI/dev-de.tsv").write_text("Ein Hund .\tEin Tier .\tentailment\n" * 5_010, encoding="utf-8")
    with pytest.raises(DataError, match="5,010 rows are those of the test file; XNLI, German's validation has 2,490"):
        load_task("xnli-de", tmp_path)


def test_the_hubs_copy_gives_the_same_content(root, tmp_path):
    data = load_task("xnli-th", root)
    names = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
        }
    )
    (tmp_path / "th").mkdir()
    for name, rows in data.splits.items():
        columns = {"premise": rows["text"][:], "hypothesis": rows["text_pair"][:], "label": rows["label"][:]}
        datasets.Dataset.from_dict(columns, features=names).to_parquet(
            tmp_path / "th" / f"{name}-00000-of-00001.parquet"
        )
    assert load_task("xnli-th", tmp_path, source="hub").fingerprint == data.fingerprint


def test_the_rows_of_the_table():
    tasks = [get_task(f"xnli-{code}") for code in XNLI_LANGUAGES]
    assert next(iter(XNLI_LANGUAGES)) == "zh" and len(tasks) == 15
    for t in tasks:
        assert (
            t.labels == get_task("mnli").labels
            and t.rows == {"train": 392_702, "validation": 2_490, "test": 5_010}
            and len(t.hub.revision) == 40
        )
    assert get_task("XNLI_zh") is tasks[0]


# ---- translate-train


def test_the_original_protocol_selects_on_dev_and_reports_test(root):
    data = load_task("xnli-de", root)
    original, carved = split(data, "original"), split(data)
    assert original.selection["example_id"] == data["validation"]["example_id"] and len(original.train) == len(
        data["train"]
    )
    assert carved.selection["example_id"][0].startswith("train/") and not set(carved.selection["example_id"]) & set(
        carved.train["example_id"]
    )
    for parts in (original, carved):
        assert list(parts.report) == ["test", "validation"] and len(parts.report["test"]) == 30
    assert original.notes == ["selected on validation, which is also reported: its scores are optimistic"]
    assert part_of(data, report_examples=12).notes[0].startswith("test is reported on 12 of 30")


# ---- zero-shot


def test_the_same_pairs_in_each_language(root, tmp_path):
    found = load_languages(["de", "en", "th"], root)
    scores = score_languages(load_encoder("tiny-random", get_task("mnli")), found, 12, seed=3, precision="fp32")
    asked = scores.rows.groupby("language")[["example_id", "label"]].agg(list)
    assert asked.map(tuple).nunique().tolist() == [1, 1] and set(scores.rows["split"]) == {
        "test/de",
        "test/en",
        "test/th",
    }
    assert scores.table["pairs"].tolist() == [12] * 3 and scores.baselines["test/en"]["accuracy"] == pytest.approx(
        1 / 3
    )
    shutil.copytree(root / "XNLI", tmp_path / "XNLI")
    lines = (tmp_path / "XNLI/test-th.tsv").read_text(encoding="utf-8").split("\n")
    (tmp_path / "XNLI/test-th.tsv").write_text("\n".join(lines[1:]), encoding="utf-8")
    with pytest.raises(DataError, match="xnli-th test: its 29 labels differ from the 30 of xnli-de"):
        load_languages(["de", "th"], tmp_path)


def test_unknown_pieces_are_counted_among_real_ones(root):
    from bertvision.data.batches import tokenise

    tiny = load_encoder("tiny-random")
    tokens = tokenise(load_languages(["th"], root)["th"], tiny.tokenizer, 128, cached=False)
    unknown = real = 0
    for i in range(len(tokens)):
        pieces = tiny.tokenizer.convert_ids_to_tokens(tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]])
        unknown, real = unknown + pieces.count("[UNK]"), real + sum(p not in ("[CLS]", "[SEP]") for p in pieces)
    assert unknown_share(tokens, tiny.tokenizer) == pytest.approx(unknown / real) and 0 < unknown < real


# ---- the plan

STUDY = """
title: Two languages
tasks: [mnli, xnli-de]
encoders: [tiny-random]
seeds: [0, 1]
steps:
  finetune: {tasks: [mnli], parameters: {epochs: 1, max_length: 64, keep_model: true}}
  zero-shot: {title: Zero-shot, experiment: evaluate_languages, tasks: [mnli], needs: [finetune], parameters: {languages: [th, en], report_examples: 24, max_length: 64}}
  translated: {title: Translate-train, experiment: finetune, tasks: [xnli-de], parameters: {epochs: 1, max_length: 64}}
report: languages
"""


def planned(place, root, text=STUDY):
    (place / "studies").mkdir(exist_ok=True)
    (place / "studies" / "two.yaml").write_text(text)
    return plan(load_study(place / "studies" / "two.yaml"), root, place / "outputs")


def test_a_changed_test_set_touches_the_runs_that_read_it(root, tmp_path):
    data = shutil.copytree(root, tmp_path / "data")
    before = planned(tmp_path, data)
    with open(data / "XNLI/test-th.tsv", "a", encoding="utf-8") as f:
        f.write("a\tb\tneutral\n")
    after = planned(tmp_path, data)
    assert [a.id for a, b in zip(before.jobs, after.jobs) if a.fingerprint != b.fingerprint] == [
        f"zero-shot.mnli.tiny-random.s{s}" for s in (0, 1)
    ]
    with open(data / "XNLI/test-de.tsv", "a", encoding="utf-8") as f:
        f.write("a\tb\tneutral\n")
    last = planned(tmp_path, data)
    assert [a.id for a, b in zip(after.jobs, last.jobs) if a.fingerprint != b.fingerprint] == [
        f"translated.xnli-de.tiny-random.s{s}" for s in (0, 1)
    ]
    assert forecast(last)["zero-shot.mnli.tiny-random.s0"].examples == 2 * 24
    with pytest.raises(ParameterError, match="languages: unknown 'cn'"):
        planned(tmp_path, data, STUDY.replace("[th, en]", "[cn]"))


@pytest.mark.parametrize("name", ["xnli", "xnli-small", "gluon"])
def test_the_studies_can_be_planned(name, tmp_path):
    p = plan(load_study(name), None, tmp_path, inputs=False)
    assert p.jobs and {job_state(j).name for j in p.jobs} == {"new"}
    if name == "gluon":
        rows = {(j.grid["task"], j.grid["encoder"].rpartition("/")[2]) for j in p.jobs}
        assert rows == {
            *((t, "bert-base-uncased") for t in ("mrpc", "rte", "sst-2", "mnli", "squad1")),
            ("xnli-zh", "bert-base-chinese"),
            *((t, "bert-large-uncased") for t in ("squad1", "squad2")),
        }
        assert p.study.published == "GluonNLP model zoo"
        for j in p.jobs:
            asks = get_task(j.grid["task"]).kind == "span"
            wanted = (
                dict(lr=3e-5, batch_size=12, epochs=2.0, max_length=384, optimizer="adamw", weight_decay=0.0)
                if asks
                else dict(lr=2e-5, batch_size=32, epochs=3.0, max_length=128, optimizer="bertadam", weight_decay=0.01)
            )
            assert (
                {k: j.parameters[k] for k in wanted} == wanted
                and j.parameters["clip"] == 1.0
                and j.parameters["warmup"] == 0.1
            )


def test_an_unknown_source_is_refused(root, tmp_path):
    with pytest.raises(StudyError, match="published = 'Gluon': expected one of BERTVision README"):
        planned(tmp_path, root, STUDY + "published: Gluon\n")


# ---- published numbers of one source


def pretended(place, task, encoder, metrics, source):
    record = {
        "schema": 1,
        "status": "done",
        "experiment": "finetune",
        "step": "finetune",
        "task": task,
        "encoder": encoder,
        "seed": 0,
        "protocol": "carved",
        "parameters": {},
        "metrics": metrics,
        "baselines": {},
        "seconds": {"total": 1.0},
        "collapsed": None,
    }
    write_json(place / "runs" / f"finetune.{task}.s0" / "record.json", record)
    write_json(place / "plan.json", {"study": place.name, "title": place.name, "jobs": [], "published": source})


def test_the_report_shows_the_numbers_of_the_studys_source(tmp_path):
    for source, rte in (("GluonNLP model zoo", 0.708), ("", 0.661)):
        place = tmp_path / f"study{len(source)}"
        pretended(place, "rte", "bert-base-uncased", {"validation": {"accuracy": 0.7}}, source)
        pretended(
            place,
            "xnli-zh",
            "google-bert/bert-base-chinese",
            {"test": {"accuracy": 0.77}, "validation": {"accuracy": 0.78}},
            source,
        )
        pretended(
            place, "squad2", "bert-large-uncased", {"validation": {"exact_match": 0.77, "answer_f1": 0.8}}, source
        )
        table = glue_table(read_study(place))
        cells = {(r["task"], r["split"], r["metric"]): r["published"] for r in table.to_dict("records")}
        assert cells["rte", "validation", "accuracy"] == rte
        assert cells["xnli-zh", "validation", "accuracy"] == 0.7827 and pd.isna(cells["xnli-zh", "test", "accuracy"])
        shown = readable(table).set_index(["Task", "Metric"])
        assert {"Accuracy (test)", "Accuracy (validation)"} == set(shown.loc["XNLI, Chinese"].index)
        assert (shown.loc["SQuAD 2.0", "Published"].tolist() == ["78.0†", "81.0†"]) == bool(source)


# ---- the report


def test_every_number_is_that_of_the_records(tmp_path):
    study = example_languages(tmp_path)
    make_report("languages", study)
    table = pd.read_csv(study / "report" / "table.csv", keep_default_na=False, na_values=[""])
    for row in table.to_dict("records"):
        values = []
        for place in (study / "runs").iterdir():
            r = read_json(place / "record.json")
            key = f"test/{row['language']}" if r.get("languages") else "test"
            if r["encoder"] == row["encoder"] and key in r["metrics"]:
                values.append(r["metrics"][key]["accuracy"])
        assert (
            len(values) == row["runs"]
            and row["mean"] == pytest.approx(np.mean(values))
            and row["sd"] == pytest.approx(np.std(values, ddof=1))
        )
    text = (study / "report" / "table.md").read_text(encoding="utf-8")
    main = next(line for line in text.splitlines() if line.startswith("| Zero-shot from English | example-english"))
    english = table.query("encoder == 'example-english' and language == 'en'")["mean"].item()
    assert number(english) in main and " nan" not in text and "78.27%" in text and "(1 not started)" in text


def test_less_than_a_whole_study(tmp_path):
    study = example_languages(tmp_path)
    for place in list((study / "runs").iterdir()):
        if not place.name.endswith("s0"):
            shutil.rmtree(place)
    write_json(study / "plan.json", read_json(study / "plan.json") | {"jobs": []})
    change(
        study,
        "zero-shot.mnli.example-english.s0",
        lambda r: r.update(trained={}, notes=["test is reported on 300 of 5,010 pairs"]),
    )
    (study / "runs" / "translate-train.xnli-zh.example-chinese.s0" / "predictions.parquet").unlink()
    results = read_study(study)
    rows = language_rows(results)
    means = language_means(results, rows)
    one = means.set_index(["encoder", "language"])
    assert (
        means["sd"].isna().all()
        and set(means["verdict"]) == {"no claim"}
        and means[["low", "high", "p"]].isna().all(axis=None)
    )
    assert (
        one.loc[("example-chinese", "zh"), "reason"] == "predictions missing"
        and one.loc[("example-multilingual", "en"), "reason"] == "one seed"
    )
    text = paragraph(results, means)
    assert plot_languages(means).axes and "nan" not in text and "No claim (predictions missing): Chinese" in text
    assert (
        "in 0 of 15 languages. No claim (one seed): English" in text
        and "No difference is claimed" in comparison_rule(means)
    )
    table = language_table(results, rows, means)
    assert table.set_index("Encoder").loc["example-english", "Tuned task"].iloc[
        0
    ] == "" and "MNLI: test is reported on 300 of 5,010 pairs (1 run)" in language_notes(results, rows)
    assert not table.map(lambda x: "nan" in str(x) or "▲" in str(x) or "▼" in str(x)).any(axis=None)


def test_a_cell_of_the_table_from_its_files(tmp_path):
    study = example_languages(tmp_path)
    rows = [
        pd.read_parquet(study / "runs" / f"zero-shot.mnli.example-multilingual.s{seed}" / "predictions.parquet")
        for seed in range(3)
    ]
    rows = [r[r["split"] == "test/zh"].sort_values("example_id") for r in rows]
    d = np.stack([(r["prediction"] == r["label"]).to_numpy(float) for r in rows]) - (rows[0]["label"] == 0).to_numpy(
        float
    )
    n, count = d.shape
    v_seed, v_pair = d.mean(1).var(ddof=1) / n, d.mean(0).var(ddof=1) / count
    apart = d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()
    variance = max(v_seed + v_pair - (apart**2).sum() / ((n - 1) * (count - 1) * n * count), v_seed, v_pair)
    freedom = variance / (v_seed / (n - 1) + v_pair / (count - 1))
    halves = [stats.t.ppf(0.975, df) * v**0.5 for v, df in ((variance, freedom), (v_seed, n - 1))]
    p = max(2 * stats.t.sf(abs(d.mean()) / v**0.5, df) for v, df in ((variance, freedom), (v_seed, n - 1)))
    results = read_study(study)
    means = language_means(results, language_rows(results))
    one = means.set_index(["encoder", "language"]).loc[("example-multilingual", "zh")]
    expected = (d.mean(), d.mean() - max(halves), d.mean() + max(halves), p)
    assert tuple(one[["difference", "low", "high", "p"]]) == pytest.approx(expected, abs=1e-12)
    order = np.sort(means["p"].to_numpy())
    assert one["p_holm"] <= 1 and np.isclose(means["p_holm"].min(), len(means) * order[0]), (
        "one family: all cells of the table"
    )
    claimed = means[means["verdict"] != "undecided"]
    assert len(claimed) and ((claimed["low"] > 0) | (claimed["high"] < 0)).all()


def test_a_collapse_counts_in_its_language_alone(tmp_path):
    study = example_languages(tmp_path)
    run = "zero-shot.mnli.example-multilingual.s1"
    path = study / "runs" / run / "predictions.parquet"
    rows = pd.read_parquet(path)
    rows.loc[rows["language"] == "zh", "prediction"] = (
        0  # the first language, which the whole run's collapse is read from
    )
    rows.to_parquet(path, index=False)
    change(study, run, lambda r: r["metrics"]["test/zh"].update(accuracy=1 / 3))
    results = read_study(study)
    assert results.runs[run]["collapsed"]
    rows = language_rows(results)
    means = language_means(results, rows)
    one = means.set_index(["encoder", "language"]).loc["example-multilingual"]
    assert (
        one.loc["zh", "collapsed"] == one.loc["zh", "collapsed_runs"] == 1
        and one.loc["zh", "difference_without"] > one.loc["zh", "difference"]
    )
    assert one.loc["en", "collapsed"] == 0 and not one["fragile"].any()
    table = language_table(results, rows, means).set_index("Encoder")
    assert (
        "(1 of 3 collapsed)" in table.loc["example-multilingual", "zh"].iloc[0]
        and "collapsed" not in table.loc["example-multilingual", "en"].iloc[0]
    )


def test_planned_methods_without_a_run_have_their_rows(tmp_path):
    study = example_languages(tmp_path)
    for place in (study / "runs").glob("zero-shot.mnli.example-multilingual.*"):
        shutil.rmtree(place)
    results = read_study(study)
    rows = language_rows(results)
    table = language_table(results, rows, language_means(results, rows))
    assert table.set_index("Encoder").loc["example-multilingual", "Seeds"] == "not started"


def test_a_study_of_which_nothing_has_finished_has_a_report(tmp_path):
    job = {"run": "a", "step": "zero-shot", "task": "mnli", "encoder": "minilm-l6", "seed": 0}
    write_json(tmp_path / "empty" / "plan.json", {"study": "empty", "title": "Not started", "jobs": [job]})
    text = (make_report("languages", tmp_path / "empty") / "table.md").read_text(encoding="utf-8")
    assert "0 of 1 runs finished (1 not started)" in text and "| zero-shot | minilm-l6 | not started |" in text
    assert "## Against" not in text and ".png" not in text


@pytest.mark.skipif(
    not os.environ.get("BERTVISION_LONG"), reason="BERTVISION_LONG is not set: this study takes a minute or more"
)
def test_a_study_from_its_files_to_its_table(root, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTVISION_DATA", str(root))
    done = run_small(tmp_path, "languages", STUDY)
    table = pd.read_csv(done / "report" / "table.csv", keep_default_na=False, na_values=[""])
    assert set(zip(table["method"], table["language"])) == {
        ("Zero-shot", "en"),
        ("Zero-shot", "th"),
        ("Translate-train", "de"),
    } and set(table["runs"]) == {2}
    record = read_json(done / "runs" / "zero-shot.mnli.tiny-random.s1" / "record.json")
    assert (
        list(record["metrics"]) == ["test/en", "test/th"]
        and record["languages"]["th"]["unknown"] > 0.8
        and record["trained"]["task"] == "mnli"
    )
    rows = pd.read_parquet(done / "runs" / "zero-shot.mnli.tiny-random.s1" / "predictions.parquet")
    assert list(rows) == ["split", "language", "example_id", "label", "prediction"] and len(rows) == 48
    assert not read_study(done).faults


# ---- real files


@pytest.mark.parametrize("code", XNLI_LANGUAGES)
def test_every_real_pair_is_read(code, data_dir):
    data = load_task(f"xnli-{code}", data_dir, splits=("validation", "test"))
    assert {name: np.bincount(data.labels(name)).tolist() for name in data.splits} == {
        "validation": [830] * 3,
        "test": [1_670] * 3,
    }
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        name: data.task.rows[name] for name in data.splits
    }
    assert data["test"]["example_id"][-1] == "test/5009" and data.source["dropped"] == []


def test_all_real_languages_are_the_same_pairs(data_dir):
    assert list(load_languages([], data_dir)) == list(XNLI_LANGUAGES)


def test_real_rows_in_the_official_layout(data_dir, tmp_path):
    official(data_dir, tmp_path, ("ar", "th", "zh"), ("test",))
    for code in ("th", "zh"):
        assert (
            load_task(f"xnli-{code}", tmp_path, splits=("test",)).fingerprint
            == load_task(f"xnli-{code}", data_dir, splits=("test",)).fingerprint
        )
