"""Files for GLUE's server: its format, the right run, the right rows, and what is said of tasks that nobody answers."""

import pandas as pd
import pytest

from bertvision import fit, load_encoder, load_task
from bertvision.cli import main
from bertvision.core.io import write_json
from bertvision.data.tasks import get_task
from bertvision.evaluation.glue_server import GLUE_FILES, glue_runs, write_submission
from bertvision.runs.records import new_record

SENTENCES = [
    f"The {noun} {verb} number {i} ." for i in range(4) for noun in ("cat", "dog") for verb in ("is good", "is awful")
]
PAIRS = [(a, b) for a, b in zip(SENTENCES, SENTENCES[::-1])]


def kept(place, task, score=0.5, seed=0, **parameters):
    """What a finetune run leaves; its head is random."""
    folder = place / f"finetune.{task}.s{seed}"
    write_json(
        folder / "record.json",
        new_record("finetune", {"task": task, "max_length": 64, **parameters}, seed)
        | {"status": "done", "metrics": {"selection": {get_task(task).metrics[0]: score}}},
    )
    load_encoder("tiny-random", get_task(task), seed=seed).save(folder / "model")
    return folder


def glue_folder(place):
    """Test files of all tasks in GLUE's columns."""
    for name, (task, split) in GLUE_FILES.items():
        if not task:
            continue
        row = get_task(task)
        where = place / "AX" / "AX.tsv" if name == "AX" else place / row.folder.names[0] / row.folder.files[split].name
        columns = ("sentence1", "sentence2") if name == "AX" else row.folder.files[split].text
        where.parent.mkdir(parents=True, exist_ok=True)
        texts = [pair[: len(columns)] for pair in PAIRS]
        where.write_text(
            "\t".join(["index", *columns]) + "\n" + "".join("\t".join([str(i), *t]) + "\n" for i, t in enumerate(texts))
        )
    return place


def read(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def test_all_files_of_all_tasks(tmp_path):
    for task in dict.fromkeys(t for t, _ in GLUE_FILES.values() if t):
        kept(tmp_path / "runs", task)
    told = write_submission(tmp_path / "runs", tmp_path / "out", glue_folder(tmp_path / "data"))
    assert list(told.missing) == ["WNLI"] and told.zip is None and len(told.notes) == 10
    for name in told.files:
        table = read(tmp_path / "out" / f"{name}.tsv")
        assert list(table) == ["index", "prediction"] and table["index"].tolist() == [str(i) for i in range(len(PAIRS))]
        if name == "STS-B":
            assert table["prediction"].astype(float).between(0, 5).all()
        else:
            assert set(table["prediction"]) <= (
                {"0", "1"} if name in ("CoLA", "SST-2", "MRPC", "QQP") else set(get_task(GLUE_FILES[name][0]).labels)
            )


def test_predictions_are_those_of_the_model_and_in_order(tmp_path):
    from bertvision.data.batches import tokenise
    from bertvision.training.trainer import predict

    folder = kept(tmp_path / "runs", "mnli", seed=4)
    write_submission(tmp_path / "runs", tmp_path / "out", glue_folder(tmp_path / "data"))
    rows = load_task("mnli", tmp_path / "data", splits=("test_matched",))["test_matched"]
    encoder = load_encoder(str(folder / "model"), get_task("mnli"))
    said = predict(encoder.model, tokenise(rows, encoder.tokenizer, 64)).argmax(1)
    assert read(tmp_path / "out" / "MNLI-m.tsv")["prediction"].tolist() == [get_task("mnli").labels[i] for i in said]


def test_the_run_is_chosen_on_the_part_that_selects(tmp_path):
    for seed, score in ((0, 0.2), (1, 0.7), (2, 0.4)):
        kept(tmp_path / "runs", "sst-2", score, seed)
    assert [c.folder.name[-1] for c in glue_runs(tmp_path)["sst-2"]] == ["1", "2", "0"]
    told = write_submission(tmp_path, tmp_path / "out", glue_folder(tmp_path / "data"))
    assert told.files["SST-2"].startswith("finetune.sst-2.s1, accuracy 0.700")


def test_the_command(tmp_path, capsys):
    kept(tmp_path / "runs", "cola")
    data, out = str(glue_folder(tmp_path / "data")), tmp_path / "out"
    assert main(["submit", str(tmp_path / "runs"), "--out", str(out), "--data", data]) == 0
    said = capsys.readouterr()
    assert (
        "CoLA.tsv: finetune.cola.s0" in said.out
        and "not written: WNLI.tsv: WNLI is not a task of this package" in said.err
        and "--fill" in said.err
    )
    assert "CoLA.tsv has 16 rows, but the official test file has 1,063" in said.err and [
        p.name for p in out.iterdir()
    ] == ["CoLA.tsv"]
    assert main(["submit", str(tmp_path / "runs"), "--out", str(out), "--data", data, "--fill"]) == 0
    assert (
        "RTE.tsv: the constant answer entailment, not a model's predictions, 3,000 rows"
        in (text := capsys.readouterr().out)
        and "submission.zip" in text
    )
    assert main(["submit", str(out), "--out", str(out), "--data", data]) == 2
    assert "no finished finetune run on a GLUE task that kept its model" in capsys.readouterr().err


def test_an_exact_fit_is_what_is_submitted(tmp_path):
    """A head that has learned to tell two words apart answers the test file by these words."""
    data = glue_folder(tmp_path / "data")
    for name in ("train", "dev"):
        (data / "SST-2" / f"{name}.tsv").write_text(
            "sentence\tlabel\n" + "".join(f"{s}\t{int('good' in s)}\n" for s in SENTENCES * 3)
        )
    examples = load_task("sst-2", data)
    result = fit(
        load_encoder("tiny-random", examples.task),
        examples,
        epochs=8,
        lr=3e-3,
        batch_size=8,
        max_length=60,
        protocol="original",
        precision="fp32",
    )
    assert result.metrics["validation"]["accuracy"] == 1.0
    folder = kept(tmp_path / "runs", "sst-2")
    result.encoder.save(folder / "model")
    write_submission(tmp_path / "runs", tmp_path / "out", data)
    assert read(tmp_path / "out" / "SST-2.tsv")["prediction"].tolist() == [str(int("good" in s)) for s in SENTENCES]


@pytest.mark.parametrize("task, name, rows", [("cola", "CoLA", 1063), ("sst-2", "SST-2", 1821)])
def test_real_test_files(data_dir, tmp_path, task, name, rows):
    kept(tmp_path / "runs", task, max_length=64)
    told = write_submission(tmp_path / "runs", tmp_path / "out", data_dir)
    table = read(tmp_path / "out" / f"{name}.tsv")
    lines = (data_dir / name / "test.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
    assert (
        told.notes == [] and table["index"].tolist() == [line.split("\t")[0] for line in lines] and len(table) == rows
    )
    assert set(table["prediction"]) <= {"0", "1"}
