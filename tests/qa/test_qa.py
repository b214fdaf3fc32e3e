"""Questions: files, windows, decoder and command line together. The modules' own notebooks test them one by one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bertvision import fit, load_encoder, load_task, split
from bertvision.cli import main
from bertvision.core.errors import DataError, ParameterError
from bertvision.core.io import read_json
from bertvision.data.squad import read_squad
from bertvision.data.tasks import get_task
from bertvision.qa.decoding import answers, decode_spans, write_answers
from bertvision.qa.scoring import score_answers
from bertvision.qa.windows import make_windows

STORY = "Ann bought a red boat. Ben sold a blue kite."


def official(*qas, context=STORY):
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def qa(id="1", question="Who sold a kite?", text="Ben", start=23):
    return {
        "id": id,
        "question": question,
        "answers": [{"text": text, "answer_start": start}] if text else [],
        "is_impossible": not text,
    }


@pytest.fixture
def squad(tmp_path):
    """A folder in SQuAD's layout with small files in it."""
    home = tmp_path / "data" / "SQuAD"
    home.mkdir(parents=True)
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (home / name).write_text(json.dumps(official(qa(f"{name}/1"), qa(f"{name}/2", "Who sold a boat?", ""))))
    return home


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# Bad input: one clear error, or a count.


def test_a_truncated_file_says_where_it_was_cut(squad):
    write(squad / "dev-v2.0.json", json.dumps(official(qa()))[:150])
    with pytest.raises(DataError, match=r"dev-v2.0.json has been cut off: .* line 1, column"):
        load_task("squad2", squad.parent)


def test_a_missing_field_is_named(squad):
    question = qa()
    del question["question"]
    write(squad / "dev-v2.0.json", official(question))
    with pytest.raises(DataError, match=r"data\[0\].paragraphs\[0\].qas\[0\] \(1\) lacks 'question'"):
        load_task("squad2", squad.parent)


def test_an_empty_context_is_named(squad):
    write(squad / "train-v2.0.json", official(qa(), context="  "))
    with pytest.raises(DataError, match=r"paragraphs\[0\]: the context is empty"):
        load_task("squad2", squad.parent)


def test_duplicate_ids_are_named(squad):
    write(squad / "train-v2.0.json", official(qa(), qa()))
    with pytest.raises(DataError, match="'1' occurs more than once"):
        load_task("squad2", squad.parent)


def test_a_missing_train_file_is_named(squad):
    (squad / "train-v2.0.json").unlink()
    with pytest.raises(DataError, match="train-v2.0.json: no such file"):
        load_task("squad2", squad.parent)


def test_an_offset_beside_its_text_is_counted_and_mended(tmp_path):
    found = read_squad(write(tmp_path / "f.json", official(qa(start=3), qa("2", text="Cleo", start=0))))
    assert (found.moved, found.absent) == (["1"], ["2"])


def test_questions_that_are_not_scored_are_counted(tmp_path, capsys):
    gold = write(tmp_path / "gold.json", official(qa(), qa("2", "Who sold a boat?", "")))
    assert main(["score", str(gold), str(write(tmp_path / "p.json", {"1": "Ben", "x": "y"}))]) == 0
    out = capsys.readouterr()
    assert "1 questions without a prediction" in out.err and "1 predictions are for questions" in out.err
    assert json.loads(out.out)["exact"] == 50.0


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1]", "expected a JSON object that maps each question id to a string"),
        ('{"1": 3}', "question '1': answer = 3, expected a string"),
        ('{"1": ', "is not JSON"),
    ],
)
def test_a_bad_file_of_predictions(tmp_path, capsys, content, message):
    gold = write(tmp_path / "gold.json", official(qa()))
    assert main(["score", str(gold), str(write(tmp_path / "p.json", content))]) == 2
    assert message in capsys.readouterr().err


def test_a_file_without_answers_cannot_be_scored(tmp_path, capsys):
    question = qa()
    del question["answers"]
    gold = write(tmp_path / "gold.json", official(question))
    assert main(["score", str(gold), str(write(tmp_path / "p.json", {"1": "Ben"}))]) == 2
    assert "has no list of answers" in capsys.readouterr().err


# The files of the official tools, and what a threshold does.


@pytest.fixture(scope="module")
def decoded():
    data = load_task("toy-qa", sizes={"train": 10, "validation": 80})["validation"]
    windows = make_windows(data, load_encoder("tiny-random").tokenizer, 40, 12, cached=False)
    return decode_spans(windows, np.random.default_rng(0).normal(size=(len(windows.input_ids), 2)).astype(np.float32))


def test_files_have_the_official_schema(decoded, tmp_path):
    write_answers(tmp_path, decoded, threshold=0.0)
    ids, (said, best, odds) = (
        decoded.windows.ids,
        (read_json(tmp_path / f"{n}.json") for n in ("predictions", "nbest_predictions", "null_odds")),
    )
    assert list(said) == list(best) == list(odds) == ids
    assert all(type(v) is str for v in said.values()) and all(type(v) is float for v in odds.values())
    for id, rows in best.items():
        assert all(list(r) == ["text", "probability", "start_logit", "end_logit"] for r in rows)
        assert len({r["text"] for r in rows}) == len(rows) and sum(r["probability"] for r in rows) == pytest.approx(1)
        assert [r["probability"] for r in rows] == sorted((r["probability"] for r in rows), reverse=True)
        assert said[id] == ("" if odds[id] > 0 else next(r["text"] for r in rows if r["text"]))


def test_without_unanswerable_questions_no_answer_is_empty(decoded, tmp_path):
    assert {p.name for p in write_answers(tmp_path, decoded)} == {"predictions.json", "nbest_predictions.json"}
    assert all(read_json(tmp_path / "predictions.json").values())


def test_a_higher_threshold_answers_more(decoded):
    w, scores = decoded.windows, []
    for threshold in (-100.0, -1.0, 0.0, 1.0, 100.0):
        scores.append(score_answers(w.ids, w.answers, answers(decoded), decoded.null_odds, threshold).metrics)
    assert scores[0]["no_answer_f1"] == 1 and scores[0]["has_answer_f1"] == 0 and scores[-1]["no_answer_f1"] < 0.2
    for low, high in zip(scores, scores[1:]):
        assert low["has_answer_f1"] <= high["has_answer_f1"] and low["no_answer_f1"] >= high["no_answer_f1"]


def test_predict_answers_any_checkpoint(tmp_path, capsys):
    bert, file = (
        load_encoder("tiny-random", get_task("squad2")),
        write(tmp_path / "f.json", official(qa(), qa("2", "Who sold a boat?", ""))),
    )
    for part in (bert.model, bert.tokenizer):
        part.save_pretrained(tmp_path / "model")
    argv = [
        "predict",
        str(file),
        "--out",
        str(tmp_path / "out"),
        "--max-length",
        "48",
        "--doc-stride",
        "16",
        "--encoder",
    ]
    assert main([*argv, str(tmp_path / "model")]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 2
    assert list(read_json(tmp_path / "out" / "predictions.json")) == ["1", "2"]
    assert main([*argv, "tiny-random"]) == 2
    assert "no trained span head" in capsys.readouterr().err


def changed(task, row, **answer):
    """The task with one training answer written otherwise."""
    other = lambda r, i: {"answers": {**r["answers"], **answer}} if i == row else {}
    return replace(task, splits=task.splits | {"train": task["train"].map(other, with_indices=True)})


def test_an_answer_that_is_not_where_it_should_be_is_counted_and_one_that_is_nowhere_does_not_train():
    task = load_task("toy-qa")
    trains = set(split(task).train["example_id"])
    row, example = next(
        (i, r["example_id"]) for i, r in enumerate(task["train"]) if r["example_id"] in trains and r["answers"]["text"]
    )
    lost, beside = (
        split(changed(task, row, text=["zebra"], answer_start=[0])),
        split(changed(task, row, answer_start=[10**6])),
    )
    assert trains - set(lost.train["example_id"]) == {example}
    assert lost.notes[-1] == f"1 questions of train are left out, their answer is not in their context: {example}"
    assert set(beside.train["example_id"]) == trains
    assert (
        beside.notes[-1]
        == f"1 answers of train do not stand where their offset says, the nearest place counts: {example}"
    )


def test_windows_longer_than_the_encoder_are_refused_before_it_trains():
    task = load_task("toy-qa")
    long = task["train"].map(lambda r: {"context": r["context"] + " and so on" * 400})
    with pytest.raises(ParameterError, match="'tiny-random' reads at most 512; choose a smaller max_length"):
        fit(
            load_encoder("tiny-random", task.task),
            replace(task, splits=task.splits | {"train": long}),
            max_length=1024,
            epochs=1,
        )
