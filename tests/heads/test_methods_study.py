"""One small study: fine-tuning, states, heads, ensembles and the report; and a recipe that a search chose."""

import pandas as pd
import pytest
from study_lab import run_small

from bertvision.cli import main
from bertvision.core.io import read_json
from bertvision.engine.grid import load_study
from bertvision.engine.plan import plan

STUDY = """
title: Small
tasks: [toy-sentiment]
encoders: [tiny-random]
seeds: [0, 1]
steps:
  finetune: {title: BERT, parameters: {epochs: 1, keep_model: true, train_examples: 120, lr: 1e-3}}
  extract: {experiment: extract_states, needs: [finetune], parameters: {train_examples: 120}}
  heads:
    title: Heads
    experiment: train_heads
    needs: [extract]
    parameters: {heads: ["adapter-8:mean", "scalar-mix:mean"], lrs: [1e-2], epochs: 2}
  stray:
    experiment: extract_states
    needs: [finetune]
    over: [task, encoder, seed]
    parameters: {train_examples: 120, split_seed: 1}
  ensembles:
    title: Ensembles
    experiment: ensemble
    over: [task, encoder]
    needs: [finetune, heads]
    parameters: {head: "adapter-8:mean"}
report: glue
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of the study, run to its end."""
    return run_small(tmp_path_factory.mktemp("lab"), "small", STUDY, 1)  # `stray` must fail


def test_every_variant_has_a_row(done):
    table = pd.read_csv(done / "report" / "table.csv")
    methods = list(dict.fromkeys(table["method"]))
    assert (
        methods[0] == "BERT" and "Heads: adapter-8:mean" in methods and "Ensembles: two BERT seeds, maximum" in methods
    )
    assert (table.loc[table["method"].str.startswith("Heads"), "runs"] == 2).all()
    sizes = table.set_index("method")["parameters"]
    assert sizes["Heads: adapter-8:mean"] == 8 * 64 + 8 + 2 * 3 * 8 + 2 and sizes["BERT"] > 1e5
    seconds = table.set_index("method")["seconds"]
    assert seconds["Heads: adapter-8:mean"] > seconds["BERT"], "a head's cost counts the fine-tuning that it builds on"


def test_the_page_compares_methods(done):
    text = (done / "report" / "table.md").read_text(encoding="utf-8")
    assert "Against the baseline" in text and "Heads: adapter-8:mean:" in text
    page = (done / "report" / "report.html").read_text(encoding="utf-8")
    assert "Methods beside each other" in page and "Score against trainable parameters" in page


def test_states_are_those_of_the_fine_tuned_encoder(done):
    tuned, stored = (
        read_json(done / "runs" / f"{step}.toy-sentiment.tiny-random.s0" / "record.json")
        for step in ("finetune", "extract")
    )
    assert stored["fine_tuned"] and stored["fingerprints"]["selection_ids"] == tuned["fingerprints"]["selection_ids"]
    assert stored["upstream_seconds"] == pytest.approx(tuned["seconds"]["total"])


def test_states_of_another_split_are_refused(done):
    assert read_json(done / "runs" / "stray.toy-sentiment.tiny-random.s0" / "record.json")["status"] == "failed"
    assert "was trained on another split of toy-sentiment" in (done / "failures.md").read_text(encoding="utf-8")


SEARCH = """
tasks: [toy-sentiment]
encoders: [tiny-random]
seeds: [0]
steps:
  search: {parameters: {trials: 4, batch: 2, epochs: 1, train_examples: 120}}
"""


def test_a_found_recipe_is_used(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "find.yaml").write_text(SEARCH)
    assert main(["run", str(tmp_path / "studies" / "find.yaml"), "--out", str(tmp_path / "outputs")]) == 0
    best = tmp_path / "outputs" / "find" / "runs" / "search.toy-sentiment.tiny-random.s0" / "best.yaml"
    assert "in 4 trials" in best.read_text()
    text = STUDY.replace("title: Heads\n", f"title: Heads\n    recipe: {best}\n").replace(
        'heads: ["adapter-8:mean", "scalar-mix:mean"], lrs: [1e-2], ', ""
    )
    (tmp_path / "studies" / "found.yaml").write_text(text)
    job = next(
        j for j in plan(load_study(tmp_path / "studies" / "found.yaml"), out=tmp_path / "o").jobs if j.step == "heads"
    )
    assert job.parameters["heads"][0].startswith("adapter-") and 1e-4 <= job.parameters["lrs"][0] <= 1e-2


def test_search_is_a_study_of_its_own(capsys):
    assert main(["search", "cola", "rte", "--trials", "7", "--dry-run", "--set", "finetune.epochs=2"]) == 0
    told = capsys.readouterr().out
    assert "search.rte.minilm-l6.s0" in told and "trials=7" in told and "extract.cola.minilm-l6.s0" in told
    assert main(["search", "rte", "--what", "encoder", "--dry-run"]) == 0
    assert "what=encoder" in capsys.readouterr().out
