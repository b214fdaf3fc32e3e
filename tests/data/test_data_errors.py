"""Bad data: each fault ends in one DataError that names the file, the row and what was expected."""

import gzip
import re
from dataclasses import replace

import pytest

from bertvision.core.errors import DataError, ParameterError
from bertvision.data.sources import load_task
from bertvision.data.splits import split, subset
from bertvision.data.tasks import Flaws, get_task, input_files

HEADERS = {
    "SST-2": "sentence\tlabel",
    "RTE": "index\tsentence1\tsentence2\tlabel",
    "STS-B": "\t".join(
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"]
    ),
    "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
}


def rows_of(folder, n):
    """n correct rows of a task, with both labels."""
    if folder == "CoLA":
        return [f"src\t{i % 2}\t\tsentence {i}" for i in range(n)]
    if folder == "SST-2":
        return [f"sentence {i}\t{i % 2}" for i in range(n)]
    if folder == "RTE":
        return [f"{i}\tfirst {i}\tsecond\t{('entailment', 'not_entailment')[i % 2]}" for i in range(n)]
    if folder == "STS-B":
        return [f"{i}\tg\tf\ty\to\ts\ts\tfirst {i}\tsecond\t{i % 6}.00" for i in range(n)]
    return [f"{i}\t{i}\t{i}\tone {i}?\ttwo {i}?\t{i % 2}" for i in range(n)]


def write(root, folder, name="train.tsv", change=None, n=8):
    """A file of n rows; `change` receives its lines (header first) and returns what is written."""
    lines = ([HEADERS[folder]] if folder in HEADERS else []) + rows_of(folder, n)
    target = root / folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    made = change(lines) if change else lines
    target.write_bytes(made if isinstance(made, bytes) else ("\n".join(made) + "\n").encode())
    return target


def broken(root, folder, change):
    """A task whose train file is damaged and whose dev file is sound."""
    write(root, folder, change=change)
    write(root, folder, "dev.tsv")


def instead(line, text):
    """A change that puts another text in a line, counted from 1 as in the message."""
    return lambda lines: lines[: line - 1] + [text] + lines[line:]


FAULTS = {
    "too few fields": ("SST-2", instead(5, "no label"), "train.tsv:5: 1 field where 2 are expected"),
    "too many fields": ("SST-2", instead(5, "a\tb\t1"), "train.tsv:5: 3 fields where 2 are expected"),
    "blank line": ("SST-2", instead(5, ""), "train.tsv:5: 1 field where 2 are expected"),
    "too few without header": ("CoLA", instead(3, "src\t1\tno mark"), "train.tsv:3: 3 fields where 4 are expected"),
    "missing column": (
        "RTE",
        instead(1, "index\tpremise\tsentence2\tlabel"),
        "train.tsv:1: no column 'sentence1'; the header has",
    ),
    "missing label column": ("SST-2", instead(1, "sentence\tclass"), "train.tsv:1: no column 'label'"),
    "unknown label": (
        "RTE",
        instead(4, "2\ta\tb\tmaybe"),
        "train.tsv:4: label 'maybe': expected one of entailment, not_entailment",
    ),
    "unknown class number": ("SST-2", instead(9, "fine\t2"), "train.tsv:9: label '2': expected one of 0, 1"),
    "missing value as label": ("SST-2", instead(3, "fine\tNA"), "train.tsv:3: label 'NA': expected one of 0, 1"),
    "score is no number": (
        "STS-B",
        instead(2, "0\tg\tf\ty\to\ts\ts\ta\tb\thigh"),
        "train.tsv:2: score 'high': expected a number from 0 to 5",
    ),
    "score out of range": (
        "STS-B",
        instead(2, "0\tg\tf\ty\to\ts\ts\ta\tb\t5.1"),
        "train.tsv:2: score '5.1': expected a number from 0 to 5",
    ),
    "score is nan": (
        "STS-B",
        instead(2, "0\tg\tf\ty\to\ts\ts\ta\tb\tnan"),
        "train.tsv:2: score 'nan': expected a number",
    ),
    "empty text": ("SST-2", instead(6, "\t1"), "train.tsv:6: text is empty"),
    "blank second text": ("RTE", instead(6, "4\ta\t  \tentailment"), "train.tsv:6: text_pair is empty"),
    "not UTF-8": (
        "SST-2",
        lambda lines: "\n".join(lines).encode() + "\ncaf\xe9\t1\n".encode("latin-1"),
        "train.tsv:10: byte 0xe9 at position .* is not UTF-8",
    ),
    "UTF-16": (
        "SST-2",
        lambda lines: "\n".join(lines).encode("utf-16"),
        "train.tsv:1: byte 0xff at position 0 is not UTF-8",
    ),
    "empty file": ("SST-2", lambda lines: b"", "train.tsv: the file is empty"),
    "only blanks": ("SST-2", lambda lines: b"\n\n", "train.tsv: the file is empty"),
    "header only": ("SST-2", lambda lines: lines[:1], "train.tsv: a header and no rows"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused(fault, tmp_path):
    folder, change, message = FAULTS[fault]
    broken(tmp_path, folder, change)
    with pytest.raises(DataError, match=message) as caught:
        load_task(folder, tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path / folder) in str(caught.value)


def test_the_sound_files_are_read(tmp_path):
    for folder in ("CoLA", "SST-2", "RTE", "STS-B", "QQP"):
        broken(tmp_path, folder, None)
        assert len(load_task(folder, tmp_path)["train"]) == 8


def test_text_that_looks_like_a_missing_value_or_a_quote_survives(tmp_path):
    texts = ["NA", "null", "nan", '"', '"open', 'a "quoted" word', "a\u2028b", "caf\u00e9"]
    broken(tmp_path, "SST-2", lambda lines: lines[:1] + [f"{text}\t1" for text in texts])
    assert load_task("sst-2", tmp_path)["train"]["text"][:] == texts


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    broken(tmp_path, "SST-2", lambda lines: ("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    data = load_task("sst-2", tmp_path)
    assert data["train"]["text"][:] == data["validation"]["text"][:]


@pytest.mark.parametrize(
    "cut", [lambda raw: raw[:-15], lambda raw: raw[:30] + b"\0\0\0\0" + raw[34:], lambda raw: b"plain text"]
)
def test_a_damaged_archive_is_refused(cut, tmp_path):
    target = write(tmp_path, "SST-2")
    write(tmp_path, "SST-2", "dev.tsv")
    (tmp_path / "SST-2" / "train.tsv.gz").write_bytes(cut(gzip.compress(target.read_bytes())))
    target.unlink()
    with pytest.raises(DataError, match="train.tsv.gz: damaged gzip archive"):
        load_task("sst-2", tmp_path)


def test_missing_files_and_folders(tmp_path):
    write(tmp_path, "SST-2")
    with pytest.raises(
        DataError, match=r"dev.tsv: no such file \(nor dev.tsv.gz\); task 'sst-2' needs it for the split 'validation'"
    ):
        load_task("sst-2", tmp_path)
    with pytest.raises(DataError, match="task 'rte': no folder .*RTE"):
        load_task("rte", tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        load_task("rte", tmp_path / "absent")
    with pytest.raises(DataError, match="this is a file; expected a folder"):
        load_task("rte", tmp_path / "SST-2" / "train.tsv")
    (tmp_path / "RTE").write_text("")
    with pytest.raises(DataError, match="RTE is a file; expected the folder"):
        load_task("rte", tmp_path)
    (tmp_path / "SST-2" / "dev.tsv").mkdir()
    with pytest.raises(DataError, match="dev.tsv: no folder 0 or 1 with texts in it"):
        load_task("sst-2", tmp_path)


def test_the_environment_is_named_when_it_is_at_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTVISION_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="BERTVISION_DATA = .*absent: there is no such folder"):
        load_task("rte")
    with pytest.raises(DataError, match="BERTVISION_DATA"):
        input_files("rte")


def test_unknown_names(tmp_path):
    with pytest.raises(DataError, match=r"unknown task 'colla' \(did you mean 'cola'\?\)"):
        load_task("colla")
    broken(tmp_path, "SST-2", None)
    data = load_task("sst-2", tmp_path)
    with pytest.raises(DataError, match=r"no split 'validaton' here \(did you mean 'validation'\?\)"):
        data["validaton"]
    with pytest.raises(ParameterError, match="source = 'disk': expected one of folder, hub, toy"):
        load_task("sst-2", tmp_path, source="disk")
    with pytest.raises(ParameterError, match="source = 'hub': task 'toy-qa' is always generated"):
        load_task("toy-qa", source="hub")
    with pytest.raises(ParameterError, match="files: unknown split 'dev'"):
        load_task("sst-2", tmp_path, files={"dev": "dev.tsv"})
    with pytest.raises(DataError, match="other.tsv: no such file"):
        load_task("sst-2", tmp_path, files={"test": "other.tsv"})


def flawed(flaws):
    return replace(get_task("qqp"), flaws={"train": flaws})


def test_known_flaws_are_passed_over_only_in_the_official_file(tmp_path):
    """A row cut in two by a line break: two short rows, left out when the file is the official one."""
    cut = lambda lines: lines[:3] + ["2\t2\t2\tone", "and a half?\ttwo?\t0"] + lines[4:]
    broken(tmp_path, "QQP", cut)
    data = load_task(flawed(Flaws(rows=7, cut=2)), tmp_path)
    assert data["train"]["example_id"][:] == [f"train/{i}" for i in (0, 1, 4, 5, 6, 7, 8)]
    assert [re.sub(".*/", "", name) for name in data.source["dropped"]] == ["train.tsv:4", "train.tsv:5"]
    for flaws in (Flaws(rows=100, cut=2), Flaws(rows=7, cut=1)):
        with pytest.raises(DataError, match="train.tsv:4: 4 fields where 6 are expected"):
            load_task(flawed(flaws), tmp_path)
    with pytest.raises(DataError, match="train.tsv:4: 4 fields where 6 are expected"):
        load_task("qqp", tmp_path)


def test_known_empty_texts_are_kept_only_in_the_official_file(tmp_path):
    broken(tmp_path, "QQP", instead(5, "3\t3\t3\tone?\t\t0"))
    assert load_task(flawed(Flaws(rows=8, empty=1)), tmp_path)["train"]["text_pair"][3] == ""
    for flaws in (Flaws(rows=9, empty=1), Flaws(rows=8)):
        with pytest.raises(DataError, match="train.tsv:5: text_pair is empty"):
            load_task(flawed(flaws), tmp_path)


def test_training_sets_too_small_to_carve(tmp_path):
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path, "SST-2", name, n=3)
    data = load_task("sst-2", tmp_path)
    with pytest.raises(
        DataError, match="no part of train can be carved for model selection: 3 examples in 2 groups, the smallest of 1"
    ):
        split(data)
    assert len(split(data, "original").train) == 3
    with pytest.raises(ParameterError, match="protocol = 'held-out'"):
        split(data, "held-out")
    with pytest.raises(ParameterError, match="examples = -5"):
        subset(data["train"], -5)
