"""Real files in GLUE's layout: every row is read, every label is known, and no text becomes a missing value."""

import gzip
import shutil

import numpy as np
import pytest

from bertvision import load_encoder
from bertvision.core.errors import DataError
from bertvision.data.sources import load_task
from bertvision.data.splits import split
from bertvision.data.squad import read_squad
from bertvision.data.tasks import get_task, input_files
from bertvision.qa.decoding import answers, decode_spans
from bertvision.qa.scoring import score_answers
from bertvision.qa.windows import make_windows

COUNTS = {
    "cola": {"train": 8_551, "validation": 1_043, "test": 1_063},
    "sst-2": {"train": 67_349, "validation": 872, "test": 1_821},
    "mrpc": {"train": 3_668, "validation": 408},
    "sts-b": {"train": 5_749, "validation": 1_500},
    "qqp": {"train": 23_497, "validation": 9_372},
    "mnli": {"train": 9_999, "validation_matched": 9_815},
    "qnli": {"train": 9_999, "validation": 5_463},
    "rte": {"train": 2_490, "validation": 277},
}


@pytest.mark.parametrize("task", COUNTS)
def test_every_row_is_read(task, data_dir):
    data = load_task(task, data_dir)
    assert {name: len(ds) for name, ds in data.splits.items()} == COUNTS[task]
    assert data.source["dropped"] == []


@pytest.mark.parametrize("task", COUNTS)
def test_the_environment_names_the_same_data(task, data_dir, monkeypatch):
    monkeypatch.setenv("BERTVISION_DATA", str(data_dir))
    assert {name: len(ds) for name, ds in load_task(task).splits.items()} == COUNTS[task]
    assert [f.name for f in input_files(task)] == [f.name for f in input_files(task, data_dir)]


def test_the_mismatched_part_of_mnli_can_be_named(data_dir):
    data = load_task("mnli", data_dir, files={"validation_mismatched": "dev_mismatched-sample.tsv"})
    assert len(data["validation_mismatched"]) == 1_000
    assert "validation_mismatched" in load_task("mnli", data_dir).source["missing"]


def test_full_mnli_columns(data_dir):
    data = load_task("mnli", data_dir, files={"train": "train-full-columns.tsv"})
    assert np.bincount(data.labels("train")).tolist() == [160, 160, 160]


def test_class_counts_are_the_official_ones(data_dir):
    matched = load_task("mnli", data_dir).labels("validation_matched")
    assert np.bincount(matched).tolist() == [3_479, 3_123, 3_213]  # entailment, neutral, contradiction
    assert np.bincount(load_task("mrpc", data_dir).labels("validation")).tolist() == [129, 279]
    assert np.bincount(load_task("rte", data_dir).labels("validation")).tolist() == [146, 131]


def test_unlabelled_splits_are_marked(data_dir):
    assert set(load_task("cola", data_dir).labels("test")) == {-1}


def test_example_ids_count_the_rows_of_the_file(data_dir):
    train = load_task("sst-2", data_dir)["train"]
    assert train["example_id"][0] == "train/0" and train["example_id"][-1] == "train/67348"
    lines = (data_dir / "SST-2" / "train.tsv").read_text(encoding="utf-8").split("\n")
    assert train[17]["text"] == lines[18].split("\t")[0]


def test_every_field_is_byte_exact(data_dir):
    """Quotes, spaces and odd separators survive: the rows written back are the file."""
    data = load_task("mrpc", data_dir)["train"]
    lines = (data_dir / "MRPC" / "train.tsv").read_bytes().decode("utf-8-sig").rstrip("\n").split("\n")[1:]
    ours = [(row["text"], row["text_pair"], str(row["label"])) for row in data]
    assert ours == [(f[3], f[4], f[0]) for f in (line.split("\t") for line in lines)]


def test_a_gz_copy_gives_the_same_content(data_dir, tmp_path):
    for name in ("train.tsv", "dev.tsv"):
        target = tmp_path / "RTE" / f"{name}.gz"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(gzip.compress((data_dir / "RTE" / name).read_bytes()))
    assert load_task("rte", tmp_path).fingerprint == load_task("rte", data_dir).fingerprint


def test_the_mrpc_test_file_is_not_taken_for_dev(data_dir, tmp_path):
    shutil.copytree(data_dir / "MRPC", tmp_path / "MRPC")
    train = (data_dir / "MRPC" / "train.tsv").read_text(encoding="utf-8").split("\n")
    target = tmp_path / "MRPC" / "dev.tsv"
    target.unlink()
    target.write_text("\n".join(train[: 1 + 1_725]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="1,725 rows are those of the test file; MRPC's validation has 408"):
        load_task("mrpc", tmp_path)


def test_imdb_from_the_table_and_from_its_own_layout(data_dir, tmp_path):
    data = load_task("imdb", data_dir)
    assert {name: np.bincount(data.labels(name)).tolist() for name in data.splits} == {
        "train": [12_500] * 2,
        "test": [12_500] * 2,
    }
    (tmp_path / "aclImdb").symlink_to(data_dir / "IMDB" / "aclImdb_sample")
    sample = load_task("imdb", tmp_path)
    assert np.bincount(sample.labels("train")).tolist() == [200, 200]
    known = dict(zip(data["train"]["text"], data["train"]["label"]))
    assert all(known.get(row["text"], row["label"]) == row["label"] for row in sample["train"])


def test_the_carved_part_is_fair_and_apart(data_dir):
    data = load_task("cola", data_dir)
    splits = split(data)
    shares = [np.mean(splits.selection["label"]), np.mean(data["train"]["label"])]
    assert abs(shares[0] - shares[1]) < 1e-3
    assert not set(splits.selection["example_id"]) & set(splits.train["example_id"])
    assert splits.report["validation"]["example_id"] == data["validation"]["example_id"]


@pytest.mark.parametrize("task", COUNTS)
def test_official_counts_where_the_files_are_complete(task):
    samples = {("qqp", "train"), ("qqp", "validation"), ("mnli", "train"), ("qnli", "train")}
    for name, n in COUNTS[task].items():
        assert (get_task(task).rows[name] == n) == ((task, name) not in samples)


@pytest.mark.parametrize(
    "file, questions, without, contexts, articles",
    [
        ("dev-v2.0.json", 11_873, 5_945, 1_204, 35),
        ("dev-v1.1.json", 10_570, 0, 2_067, 48),
        ("train-v1.1-first-articles.json", 4_370, 0, 678, 12),
    ],
)
def test_every_question_is_read(file, questions, without, contexts, articles, data_dir):
    found = read_squad(data_dir / "SQuAD" / file)
    assert (len(found), sum(not a["text"] for a in found.answers)) == (questions, without)
    assert (len(set(found.contexts)), len(set(found.titles))) == (contexts, articles)
    assert not found.moved and not found.absent and not found.unlabelled


def test_articles_of_train_and_test_are_apart(data_dir):
    for name, rows in (
        ("squad1-articles", {"train": 4_370 + 4_557, "test": 10_570 - 4_557}),
        ("squad2-articles", {"train": 5_921, "test": 5_952}),
    ):
        data = load_task(name, data_dir)
        assert {s: len(ds) for s, ds in data.splits.items()} == rows
        parts = split(data)
        titles = [set(ds["title"]) for ds in (parts.train, parts.selection, data["test"])]
        assert all(titles) and not (titles[0] & titles[1] or titles[0] & titles[2] or titles[1] & titles[2])


@pytest.mark.parametrize("task", ["squad1-articles", "squad2-articles"])
def test_perfect_logits_score_100_except_where_a_window_cuts(task, data_dir):
    test = load_task(task, data_dir)["test"].select(range(1500))
    windows = make_windows(test, load_encoder("tiny-random").tokenizer, 384, 128, cached=False)
    logits = np.zeros((len(windows.input_ids), 2), np.float32)
    for w, (start, end) in enumerate(windows.labels):
        logits[windows.offsets[w] + start, 0] = logits[windows.offsets[w] + end, 1] = 9
    decoded = decode_spans(windows, logits, max_answer=400)
    rows = score_answers(windows.ids, windows.answers, answers(decoded, 0.0)).rows
    wrong = set(rows.loc[rows["exact_match"] < 1, "example_id"])
    assert wrong <= set(windows.cut) | set(windows.unaligned), f"{len(wrong)} answers are lost on the way"
