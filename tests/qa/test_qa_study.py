"""One small study of questions, to its report: BERT, heads on its streamed states, their ensembles and BiDAF."""

import os

import pandas as pd
import pytest
from study_lab import run_small

from bertvision.core.io import read_json

pytestmark = pytest.mark.skipif(
    not os.environ.get("BERTVISION_LONG"), reason="BERTVISION_LONG is not set: this study takes a minute or more"
)

STUDY = """
title: Questions
tasks: [toy-qa]
encoders: [tiny-random]
seeds: [0]
steps:
  finetune:
    title: BERT
    parameters: {epochs: 1, keep_model: true, train_examples: 120, lr: 1e-3, max_length: 64, doc_stride: 32}
  heads:
    title: Heads
    experiment: train_heads
    needs: [finetune]
    parameters:
      heads: ["adapter-8:each", "scalar-mix:each"]
      lrs: [1e-2]
      epochs: 1
      train_examples: 120
      head_examples: 60
      max_length: 64
      doc_stride: 32
  bidaf: {title: BiDAF, experiment: train_bidaf, over: [task, seed], parameters: {epochs: 1, train_examples: 120}}
report: glue
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of the study, run to its end."""
    return run_small(tmp_path_factory.mktemp("lab"), "questions", STUDY)


def record(done, run):
    return read_json(done / "runs" / run / "record.json")


def test_every_system_has_a_row(done):
    table = pd.read_csv(done / "report" / "table.csv")
    assert set(table["method"]) == {
        "BERT",
        "BiDAF",
        *(f"Heads: {h}" for h in ("adapter-8:each", "scalar-mix:each")),
        *(f"Heads: BERT + {h}, {how}" for h in ("adapter-8:each", "scalar-mix:each") for how in ("maximum", "mean")),
    }
    assert {"answer_f1", "exact_match", "has_answer_f1", "no_answer_f1", "avna"} <= set(table["metric"])
    silent = table[table["metric"] == "answer_f1"]["baseline"]
    assert silent.nunique() == 1 and 0.3 < silent.iloc[0] < 0.7, "the trivial predictor answers nothing"


def test_the_report_says_where_answers_go_wrong(done):
    text = (done / "report" / "table.md").read_text(encoding="utf-8")
    assert "## Where answers go wrong" in text and "| BiDAF |" in text and (done / "report" / "lengths.png").exists()


def test_records_hold_no_text_of_the_questions(done):
    for run in ("finetune.toy-qa.tiny-random.s0", "heads.toy-qa.tiny-random.s0", "bidaf.toy-qa.s0"):
        rows = pd.read_parquet(done / "runs" / run / "predictions.parquet")
        assert set(rows.select_dtypes(exclude="number").columns) <= {"split", "example_id", "variant"}


def test_answers_are_in_the_official_files(done):
    folder = done / "runs" / "finetune.toy-qa.tiny-random.s0" / "answers" / "validation"
    said = read_json(folder / "predictions.json")
    assert (
        list(said) == list(read_json(folder / "null_odds.json"))
        and len(said) == record(done, "finetune.toy-qa.tiny-random.s0")["examples"]["validation"]
    )


def test_nothing_is_stored_but_the_checkpoint(done):
    assert not list(done.rglob("*.h5"))
    kept = {p.parent.name for p in (done / "runs").rglob("*.safetensors")}
    assert kept == {"model"}
