"""Swapped attention, from the command line to the records: trained, resumed, saved, read again; and on real reviews."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from study_lab import run_small

from bertvision import fit, load_encoder, load_task, split, subset
from bertvision.core.errors import ParameterError
from bertvision.data.batches import tokenise
from bertvision.models.attention import (
    approximation_error,
    attention_inputs,
    attention_layer,
    exact_attention,
    extend_positions,
    swap_attention,
)
from bertvision.models.encoders import build_random
from bertvision.models.sparse import attention_mode, modes_of
from bertvision.models.swaps import SWAPS, Window, attention_kind, swap_settings
from bertvision.reporting.attention import attention_rows, contender_title, plot_errors, recall_rows
from bertvision.reporting.results import read_study
from bertvision.runs.records import read_record
from bertvision.training.trainer import predict

STUDY = """
tasks: [toy-recall]
encoders: [tiny-random]
seeds: [0]
steps:
  full:
    experiment: finetune
    parameters: &fit
      epochs: 1
      max_length: 160
      attention: sdpa
      train_examples: 160
      task_options: {rules: ["32", "128"], sizes: {train: 200, validation: 60, test: 2}}
  performer:
    experiment: finetune
    parameters: {<<: *fit, swap: performer, swap_settings: {features: 32}, keep_model: true}
  wrong: {experiment: finetune, parameters: {<<: *fit, swap: window, swap_settings: {features: 32}}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small study, run to its end; one of its runs is asked for something impossible."""
    return run_small(tmp_path_factory.mktemp("lab"), "small", STUDY, code=1)


def test_the_record_says_what_ran(done):
    study = read_study(done)
    rows = attention_rows(study).set_index("step")
    assert dict(rows["mode"]) == {"full": "full", "performer": "performer"} and rows.loc["performer", "compared"] == 32
    assert set(recall_rows(study)["length"]) == {32, 128} and recall_rows(study)["examples"].sum() == 2 * 60
    record = (done / "runs" / "wrong.toy-recall.tiny-random.s0" / "record.json").read_text()
    assert "features: window has no such setting; the settings are window, global_tokens" in record


def test_a_kept_model_has_its_attention(done):
    place = done / "runs" / "performer.toy-recall.tiny-random.s0"
    options = read_record(place)["parameters"]["task_options"]
    data = load_task("toy-recall", **options)
    again = load_encoder(str(place / "model"), data.task)
    assert again.attention == "performer" and attention_mode(again, 99).compared == 32
    logits = predict(again.model, tokenise(data["validation"], again.tokenizer, 160), precision="auto")
    rows = (
        read_study(done)
        .predictions[place.name]
        .query("split == 'validation'")
        .sort_values("example_id", key=lambda ids: ids.str.split("/").str[1].astype(int))
    )
    assert (logits.argmax(1) == rows["prediction"].to_numpy()).mean() > 0.98


def test_performer_goes_on_with_its_directions(tmp_path):
    """Directions are drawn anew every five steps; a training that is interrupted ends with the same numbers."""
    data = split(load_task("toy-recall", rules=["32"], sizes={"train": 160, "validation": 20, "test": 2}), seed=0)

    def train(folder, stop=0):
        def on_step(step, total, **_):
            if step == stop:
                raise KeyboardInterrupt

        bert = swap_attention(load_encoder("tiny-random", data.task), "performer", features=16, redraw=5)
        return fit(
            bert,
            data,
            epochs=2.0,
            batch_size=16,
            lr=1e-3,
            folder=tmp_path / folder,
            on_step=on_step,
            checkpoint_seconds=1e-9,
        ), bert

    whole, one = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", 12)
    resumed, two = train("cut")
    assert (
        resumed.resumed_from > 0
        and resumed.history.loss.tolist() == whole.history.loss.tolist()
        and resumed.metrics == whole.metrics
    )
    swap = one.model.base_model.encoder.layer[0].attention.self.swap
    assert int(swap.calls) > 5 and swap.matrix.equal(two.model.base_model.encoder.layer[0].attention.self.swap.matrix)


def test_bigbird_goes_on_in_the_mode_of_the_batch(tmp_path):
    """A change of mode between batches draws no random numbers: a resumed training ends with the same scores."""
    pieces = list(load_encoder("tiny-random").tokenizer.get_vocab())
    place = build_random(
        tmp_path / "bigbird",
        ["[PAD]", *(p for p in pieces if p != "[PAD]")],
        family="bigbird",
        attention_type="block_sparse",
        block_size=8,
        num_random_blocks=1,
    )
    data = split(load_task("toy-recall", rules=["32", "64"], sizes={"train": 96, "validation": 8, "test": 2}), seed=0)

    def train(folder, stop=0):
        def on_step(step, total, **_):
            if step == stop:
                raise KeyboardInterrupt

        bert = load_encoder(str(place), data.task)
        assert modes_of(bert, [40, 70])["modes"] == {"full": 0.5, "sparse": 0.5}
        return fit(
            bert,
            data,
            epochs=2.0,
            batch_size=8,
            lr=1e-3,
            folder=tmp_path / folder,
            on_step=on_step,
            checkpoint_seconds=1e-9,
        )

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", 9)
    assert (resumed := train("cut")).resumed_from > 0 and resumed.history.loss.tolist() == whole.history.loss.tolist()


@pytest.mark.parametrize("kind", SWAPS)
def test_a_text_is_read_the_same_in_any_batch(kind):
    """Alone, and beside a text ten times as long."""
    settings = {"linformer": {"sharing": "headwise"}, "window": {"window": 32}}.get(kind, {})
    bert = swap_attention(extend_positions(load_encoder("tiny-random"), 640), kind, **settings)
    long, short = (
        bert.tokenizer(" ".join(["the doctor saw a nurse"] * n), return_tensors="pt")["input_ids"][0] for n in (90, 9)
    )
    batch = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    with torch.no_grad():
        alone = bert.model.eval()(input_ids=short[None]).last_hidden_state[0]
        beside = bert.model(input_ids=batch, attention_mask=(batch != 0).long()).last_hidden_state[1, : len(short)]
    assert torch.allclose(alone, beside, atol=1e-5)
    with pytest.raises(ParameterError, match="expected .B, T., the padding"):
        bert.model(input_ids=batch, attention_mask=torch.ones(2, 1, batch.shape[1], batch.shape[1]))


def test_reviews(data_dir):
    """On real texts more features, mixtures and a wider window are nearer to exact attention."""
    imdb = load_task("imdb", data_dir)
    bert = extend_positions(load_encoder("minilm-l6", attention="sdpa"), 1024)
    texts = sorted(subset(imdb["train"], 400, seed=0)["text"], key=len)[-2:]
    tokens = bert.tokenizer(texts, truncation=True, max_length=1024, padding=True, return_tensors="pt")
    layer = attention_inputs(bert, tokens["input_ids"], tokens["attention_mask"])[3]
    for kind, swap in SWAPS.items():
        large = 1024 if kind == "performer" else 512
        few, many = (approximation_error(layer, kind, **{swap.size: v}, **swap.fixed) for v in (32, large))
        assert many < few, kind


@pytest.fixture
def fourth():
    """A kind that compares each token with the first tokens of the text; only one test knows it."""

    @attention_kind("start", size="tokens", unit="first tokens", title="start of the text")
    @dataclass(frozen=True)
    class Start:
        tokens: int = 4

    yield Start
    del SWAPS["start"]


def test_a_fourth_kind_needs_two_lines(fourth):
    """Its settings and its layer: modes, errors and reports then know it; without a layer it is refused."""
    with pytest.raises(ParameterError, match="'start': expected a class of layers below @attention_layer"):
        swap_attention(load_encoder("tiny-random"), "start")

    @attention_layer("start")
    class StartLayer(torch.nn.Module):
        def __init__(self, settings, **_):
            super().__init__()
            self.tokens = settings.tokens

        def compared(self, length):
            return min(length, self.tokens)

        def forward(self, query, key, value, mask, scaling, dropout):
            n = self.tokens
            return exact_attention(
                query, key[:, :, :n], value[:, :, :n], mask if mask is None else mask[:, :n], scaling
            )

    bert = load_encoder("tiny-random", attention="sdpa")
    ids = torch.randint(5, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    inputs = attention_inputs(bert, ids, torch.ones_like(ids))
    errors = [approximation_error(inputs[0], "start", tokens=n) for n in (2, 20)]
    assert errors[0] > 0.01 and errors[1] < 1e-6
    swap_attention(bert, "start", tokens=8)
    assert attention_mode(bert, 20).compared == 8 and modes_of(bert, [5, 20])["modes"] == {"start": 1.0}
    assert contender_title("start:8") == "start of the text, 8 first tokens"
    rows = pd.DataFrame({"attention": "start", "encoder": "tiny", "length": 20, "setting": [2, 20], "error": errors})
    assert [ax.get_xlabel() for ax in plot_errors(rows).axes] == ["first tokens"]


def test_an_unknown_kind_is_an_error():
    """Nowhere does it pass for another kind."""
    bert = load_encoder("tiny-random")
    for act in (
        lambda: swap_attention(bert, "windows"),
        lambda: swap_settings("windows"),
        lambda: attention_layer("windows"),
        lambda: approximation_error((torch.zeros(1, 1, 4, 4),) * 3 + (None,), "windows"),
    ):
        with pytest.raises(ParameterError, match="attention 'windows': expected one of .*did you mean 'window'"):
            act()
    bert.model.config.attention_swap = {"kind": "windows"}
    with pytest.raises(ParameterError, match="attention 'windows'"):
        attention_mode(bert, 20)
    with pytest.raises(ParameterError, match="attention 'window': expected a new name"):
        attention_kind("window", size="window", unit="tokens", title="Window")(Window)
