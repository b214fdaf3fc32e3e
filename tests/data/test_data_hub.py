"""The hub's layout, from a local copy that the tests make: the same rows give the same content as a folder."""

import datasets
import httpx
import pytest

from bertvision.core.errors import DataError
from bertvision.data.sources import load_task
from bertvision.data.tasks import get_task

ROWS = {"train": [(f"sentence {i}", i % 2) for i in range(12)], "validation": [(f"other {i}", i % 2) for i in range(6)]}
TEXT, INT = datasets.Value("string"), datasets.Value("int64")


def parquet(root, task, rows, names=None, columns=None, label=None):
    """Write splits as the hub does: <configuration>/<split>-00000-of-00001.parquet."""
    hub = get_task(task).hub
    columns = columns or [*hub.text, hub.label]
    kind = label or datasets.ClassLabel(names=list(names or get_task(task).labels))
    features = datasets.Features(dict.fromkeys(columns[:-1], TEXT) | {columns[-1]: kind})
    for split, records in rows.items():
        target = root / hub.config / f"{split}-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(dict(zip(columns, zip(*records))), features=features).to_parquet(target)
    return root


def tables(root, rows=ROWS):
    """The same rows as SST-2 files."""
    (root / "SST-2").mkdir(parents=True)
    for split, name in (("train", "train"), ("validation", "dev")):
        body = "".join(f"{text}\t{label}\n" for text, label in rows[split])
        (root / "SST-2" / f"{name}.tsv").write_text("sentence\tlabel\n" + body, encoding="utf-8")
    return root


def test_hub_and_folder_give_the_same_content(tmp_path):
    hub = load_task("sst-2", parquet(tmp_path / "hub", "sst-2", ROWS), source="hub")
    folder = load_task("sst-2", tables(tmp_path / "folder"))
    assert hub.fingerprint == folder.fingerprint
    for name in ROWS:
        assert hub[name].to_dict() == folder[name].to_dict() and hub[name].features == folder[name].features
    assert hub.source["kind"] == "hub" and hub.source["missing"] == ["test"]


def test_classes_in_another_order_are_mapped_by_name(tmp_path):
    swapped = {name: [(text, 1 - label) for text, label in rows] for name, rows in ROWS.items()}
    hub = load_task("sst-2", parquet(tmp_path / "hub", "sst-2", swapped, names=["positive", "negative"]), source="hub")
    assert hub.fingerprint == load_task("sst-2", tables(tmp_path / "folder")).fingerprint


def test_class_names_in_the_card_count(tmp_path):
    """Parquet files without class names: the names stand in README.md, as the hub writes them."""
    place = parquet(tmp_path / "hub", "sst-2", ROWS, label=INT)
    with pytest.raises(DataError, match="the classes of column 'label' have no names; expected negative, positive"):
        load_task("sst-2", place, source="hub")
    features = (
        "  - name: sentence\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n"
        "        names:\n          '0': negative\n          '1': positive\n"
    )
    (place / "README.md").write_text(f"---\ndataset_info:\n- config_name: sst2\n  features:\n{features}---\n# GLUE\n")
    assert (
        load_task("sst-2", place, source="hub").fingerprint
        == load_task("sst-2", tables(tmp_path / "folder")).fingerprint
    )


def test_several_files_are_one_split(tmp_path):
    place = parquet(tmp_path / "hub", "sst-2", {"validation": ROWS["validation"]})
    for i, part in enumerate((ROWS["train"][:5], ROWS["train"][5:])):
        made = parquet(tmp_path / f"part{i}", "sst-2", {"train": part})
        (made / "sst2" / "train-00000-of-00001.parquet").rename(place / "sst2" / f"train-0000{i}-of-00002.parquet")
    assert load_task("sst-2", place, source="hub")["train"]["text"][:] == [text for text, _ in ROWS["train"]]


def test_unlabelled_test_and_scores(tmp_path):
    rows = {"train": [("a", "b", 2.5), ("c", "d", 0.0)], "validation": [("e", "f", 5.0)], "test": [("g", "h", -1.0)]}
    data = load_task("sts-b", parquet(tmp_path, "sts-b", rows, label=datasets.Value("float32")), source="hub")
    assert data.labels("train").tolist() == [2.5, 0.0] and str(data.labels("test")[0]) == "nan"
    rows["validation"] = [("e", "f", 5.5)]
    parquet(tmp_path, "sts-b", rows, label=datasets.Value("float32"))
    with pytest.raises(DataError, match="nyu-mll/glue/stsb/validation row 0: score 5.5: expected a number from 0 to 5"):
        load_task("sts-b", tmp_path, source="hub")


def test_row_numbers_of_the_official_file_are_kept(tmp_path):
    """QQP's hub copy left rows out; its idx column still counts them."""
    labels = datasets.ClassLabel(names=list(get_task("qqp").labels))
    features = datasets.Features(
        {"question1": TEXT, "question2": TEXT, "label": labels, "idx": datasets.Value("int32")}
    )
    (tmp_path / "qqp").mkdir()
    for split in ("train", "validation"):
        columns = {"question1": ["a?", "b?"], "question2": ["c?", "d?"], "label": [0, 1], "idx": [3, 7]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            tmp_path / "qqp" / f"{split}-00000-of-00001.parquet"
        )
    assert load_task("qqp", tmp_path, source="hub")["train"]["example_id"][:] == ["train/3", "train/7"]


def test_damaged_copies_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected a folder in the hub's layout, with sst2/train-"):
        load_task("sst-2", tmp_path / "absent", source="hub")
    with pytest.raises(DataError, match=r"sst2: no train-\*.parquet; task 'sst-2' needs it"):
        load_task("sst-2", tmp_path, source="hub")
    place = parquet(tmp_path, "sst-2", ROWS, columns=["text", "label"])
    with pytest.raises(DataError, match="nyu-mll/glue/sst2/train: no column 'sentence'; there are 'text', 'label'"):
        load_task("sst-2", place, source="hub")
    parquet(tmp_path, "sst-2", ROWS, names=["bad", "good"])
    with pytest.raises(DataError, match="sst2/train row 0: label 'bad': expected one of negative, positive"):
        load_task("sst-2", place, source="hub")
    parquet(tmp_path, "sst-2", {**ROWS, "train": [("fine", 1), ("", 0)]})
    with pytest.raises(DataError, match="sst2/train row 1: text is empty"):
        load_task("sst-2", place, source="hub")
    (tmp_path / "sst2" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="damaged Parquet file"):
        load_task("sst-2", place, source="hub")


def test_an_unreachable_hub_says_what_was_tried(monkeypatch):
    def fail(*args, local_files_only=False, **kwargs):
        from huggingface_hub.errors import LocalEntryNotFoundError

        raise (
            LocalEntryNotFoundError("not cached")
            if local_files_only
            else httpx.ConnectError("Name or service not known")
        )

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    with pytest.raises(DataError) as caught:
        load_task("cola")
    told = str(caught.value)
    for part in (
        "nyu-mll/glue",
        "cola",
        get_task("cola").hub.revision[:8],
        "Name or service not known",
        "--data",
        "BERTVISION_DATA",
        "toy-",
    ):
        assert part in told


def test_what_lies_in_the_cache_is_used_without_a_connection(tmp_path, monkeypatch):
    asked = []

    def download(**kwargs):
        asked.append(kwargs)
        return str(place)

    place = parquet(tmp_path, "sst-2", ROWS)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    data = load_task("sst-2")
    assert [k.get("local_files_only", False) for k in asked] == [True]
    assert asked[0]["revision"] == get_task("sst-2").hub.revision in data.source["place"]


def test_a_cache_with_another_task_only_is_filled(tmp_path, monkeypatch):
    """The cached folder may hold another configuration of the same revision."""

    def download(local_files_only=False, **kwargs):
        return str(tmp_path / "other" if local_files_only else parquet(tmp_path / "hub", "sst-2", ROWS))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    assert len(load_task("sst-2")["train"]) == 12
