"""Layer probes beyond the notebooks: several encoder families, experiments from the command line, a planted answer."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from study_lab import run_small

from bertvision import load_encoder, load_task, split
from bertvision.cli import main
from bertvision.core.io import read_json
from bertvision.data.batches import Tokens
from bertvision.data.ragged import Ragged
from bertvision.heads.bank import fit_heads
from bertvision.heads.heads import head_parameters
from bertvision.heads.specs import HeadRecipe
from bertvision.models.encoders import untrained
from bertvision.probing.coding import block_ends, online_code
from bertvision.probing.controls import control_questions, control_states, document_frequencies, key_words
from bertvision.probing.probes import probe_names
from bertvision.probing.profile import expected_layer, peak
from bertvision.states.interface import Origin, States
from bertvision.states.stream import stream_splits
from bertvision.states.views import Part

SMALL = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, max_position_embeddings=130
)
FAMILIES = {
    "albert": lambda v: tf.AlbertModel(tf.AlbertConfig(vocab_size=v, embedding_size=16, **SMALL)),
    "bert": lambda v: tf.BertModel(tf.BertConfig(vocab_size=v, **SMALL)),
    "distilbert": lambda v: tf.DistilBertModel(
        tf.DistilBertConfig(vocab_size=v, dim=32, n_layers=3, n_heads=2, hidden_dim=48, max_position_embeddings=130)
    ),
    "roberta": lambda v: tf.RobertaModel(tf.RobertaConfig(vocab_size=v, pad_token_id=0, type_vocab_size=1, **SMALL)),
}


def small(family: str, folder: Path) -> str:
    """A checkpoint of a family with random weights and the tiny encoder's word pieces."""
    tokenizer = load_encoder("tiny-random").tokenizer
    if family in ("distilbert", "roberta"):  # these know no segments
        special = {k: getattr(tokenizer, k) for k in ("cls_token", "sep_token", "pad_token", "unk_token")}
        tokenizer = tf.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, model_input_names=["input_ids", "attention_mask"], **special
        )
    torch.manual_seed(0)
    FAMILIES[family](len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_encoders_can_be_probed_at_every_state(family, tmp_path):
    encoder, data = (
        load_encoder(small(family, tmp_path / family)),
        load_task("toy-qa", sizes={"train": 60, "validation": 20}),
    )
    states = stream_splits(encoder, split(data), 64, doc_stride=32)
    layers = states["train"].layers
    assert (
        layers == 4 and states["train"].width == 32
    )  # embeddings and three blocks; ALBERT's embeddings after their projection
    fitted = fit_heads(probe_names(layers, "each"), states, data.task, epochs=1.0, lr=1e-2)
    assert [h.pooler.layer for h in fitted.heads] == [0, 1, 2, 3] and fitted.groups["layer-0:each"] == 4
    said = [fitted.logits["validation"][k] for k in range(layers)]
    assert all(np.isfinite(s).all() for s in said) and all(np.abs(a - b).max() > 1e-3 for a, b in zip(said, said[1:]))


def test_albert_has_one_block_for_all_layers_and_still_different_states(tmp_path):
    encoder = load_encoder(small("albert", tmp_path / "albert"))
    blocks = {
        n.split("albert_layer_groups.")[1].split(".")[0]
        for n, _ in encoder.model.named_parameters()
        if "albert_layer_groups" in n
    }
    assert blocks == {"0"}
    x = (
        stream_splits(encoder, split(load_task("toy-sentiment", sizes={"train": 40, "validation": 10})), 64)["train"]
        .batch([0])
        .values
    )
    assert all((x[:, k] - x[:, k + 1]).abs().max() > 1e-3 for k in range(3))


def test_a_span_probe_of_a_layer_has_1538_parameters_at_width_768():
    assert head_parameters("layer-5:each", 13, 768, 2) == 2 * (768 + 1) == 1538


@pytest.mark.parametrize("tokens, hidden, norm", [("each", 0, False), ("each", 8, True)])
def test_probes_together_are_probes_one_at_a_time(tokens, hidden, norm):
    data = load_task("toy-qa", sizes={"train": 60, "validation": 20})
    states = stream_splits(load_encoder("tiny-random"), split(data), 64, doc_stride=32, precision="fp32")
    recipes = [HeadRecipe(n, epochs=2.0, lr=1e-2, seed=k) for k, n in enumerate(probe_names(3, tokens, hidden, norm))]
    together = fit_heads(recipes, states, data.task)
    for i, recipe in enumerate(recipes):
        alone = fit_heads([recipe], states, data.task)
        assert alone.best_steps[0] == together.best_steps[i]
        one, other = (f.logits["validation"][k] for f, k in ((alone, 0), (together, i)))
        assert (
            np.abs((one - one.mean(0)) - (other - other.mean(0))).max() < 1e-3
        )  # what is added to all tokens cancels in the softmax, and nothing trains it
        assert alone.metrics[0]["validation"] == pytest.approx(
            together.metrics[i]["validation"], abs=0.051
        )  # one of twenty questions


class TwoSides:
    """States of one number each, which is the label's sign: what a probe learns from them can be worked out by hand."""

    def __init__(self, n):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 2, n)
        self.x = torch.from_numpy(np.where(self.labels, 1.0, -1.0).astype(np.float32))[:, None, None]


def made_states(n, split_name):
    class Made(States):
        def batch(self, rows):
            return Ragged(made.x[rows], torch.ones(len(rows), dtype=torch.long))

    made = TwoSides(n)
    tokens = Tokens(
        np.arange(n, dtype=np.int32), None, np.arange(n + 1), made.labels, [f"{split_name}/{i}" for i in range(n)], 0
    )
    return Made(Origin("made", "0", "0", 1, (0,), "cls", "fp32", task="toy-sentiment", split=split_name), tokens)


def test_online_code_equals_the_sum_worked_out_by_hand():
    task, train, selection = load_task("toy-sentiment").task, made_states(400, "train"), made_states(40, "selection")
    recipe = HeadRecipe("layer-0:cls", lr=0.05, epochs=4.0, patience=0)
    found = online_code([recipe], train, selection, task, batch_size=16, seed=3, smallest=50)
    ends, order = block_ends(400, 50), np.random.default_rng(3).permutation(400)
    bits = ends[0] * math.log2(2)  # the first block with equal odds
    for done, end in zip(ends, ends[1:]):
        head = fit_heads(
            [recipe], {"train": Part(train, order[:done]), "selection": selection}, task, 16, 3, judge_by="loss"
        ).heads[0]
        rows = order[done:end]
        p = (
            head(Ragged(made_states(400, "train").batch(rows).values, torch.ones(len(rows), dtype=torch.long)))
            .softmax(1)
            .detach()
            .numpy()
        )
        bits += -np.log2(p[np.arange(len(rows)), train.labels[rows]]).sum()
    assert ends == [50, 100, 200, 400]
    assert found["bits"][0] == pytest.approx(bits, rel=1e-4) and found["uniform"][0] == 400
    assert found["compression"][0] == pytest.approx(400 / bits, rel=1e-4) and found["compression"][0] > 2


def test_labels_of_a_control_task_are_fixed_by_type_and_seed():
    data, encoder = load_task("toy-sentiment"), load_encoder("tiny-random")
    parts = split(data)
    states = stream_splits(encoder, parts, 64, kind="mean")
    one, same, other = (control_states(data.task, states, parts, encoder.tokenizer, seed=s) for s in (0, 0, 1))
    counts, label_of = document_frequencies(states["train"].tokens), {}
    for name, s in one.items():
        assert (s.labels == same[name].labels).all()
        for word, label in zip(key_words(s.tokens, counts), s.labels):
            assert label_of.setdefault(int(word), label) == label, name
    assert (one["train"].labels != other["train"].labels).any() and len(label_of) > 20
    asked = load_task("toy-qa")
    assert (
        control_questions(asked["train"], asked["train"], 4)["answers"]
        == control_questions(asked["train"], asked["train"], 4)["answers"]
    )


def test_an_untrained_encoder_scores_at_the_floor():
    """The reported split has words of its own, so that random states cannot help: accuracy stays near chance."""
    data, encoder = load_task("toy-shift"), untrained(load_encoder("tiny-random"), 5)
    fitted = fit_heads(
        probe_names(3, "cls"),
        stream_splits(encoder, split(data), 64, kind="cls"),
        data.task,
        epochs=5.0,
        lr=1e-2,
        patience=0,
    )
    chance = fitted.baselines["validation"]["accuracy"]
    n = len(data["validation"])
    for m in fitted.metrics:
        assert abs(m["validation"]["accuracy"] - chance) < 3.5 * math.sqrt(0.25 / n), m


STUDY = """
title: planted
tasks: [toy-word]
encoders: [planted]
seeds: [0]
steps:
  pretrained:
    experiment: probe_layers
    parameters:
      tokens: cls
      epochs: 8
      lrs: [1.0e-2]
      train_examples: 1200
      max_length: 64
      keep_probes: true
      codes: false
      similarity: 0
report: probes
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A whole experiment from its study's text: probes of CLS on the encoder that knows the words at layer 3 alone."""
    return run_small(tmp_path_factory.mktemp("probes"), "planted", STUDY)


def test_the_planted_layer_is_found(experiment):
    record = read_json(experiment / "runs" / "pretrained.toy-word.planted.s0" / "record.json")
    score = {
        (v["probe"]["through"], v["probe"]["layer"]): v["metrics"]["validation"]["accuracy"] for v in record["variants"]
    }
    by_layer, mixes = [score["layer", k] for k in range(7)], [score["mix", k] for k in range(7)]
    chance = record["baselines"]["validation"]["accuracy"]
    assert peak(by_layer) == 3 and by_layer[3] > 0.6
    assert all(abs(by_layer[k] - chance) < 0.05 for k in (0, 1, 2, 4, 5, 6))
    assert mixes[3] - mixes[2] > 0.5 and expected_layer(mixes) == pytest.approx(
        3, abs=0.5
    )  # what a mix gains, it gains at layer 3
    assert (
        record["variants"][3]["probe"]["control"]["validation"]["accuracy"] > chance
    )  # words are what layer 3 knows, whatever they are labelled


def test_predictions_and_scores_over_a_folder_with_one_missing_and_one_broken(experiment, capsys):
    assert main(["probes", "predict", str(experiment)]) == 0
    folders = sorted(p.parent for p in experiment.rglob("probes.json"))
    assert [f.name for f in folders] == [f"epoch-{n}" for n in range(1, 9)] and len(
        list((folders[0] / "predictions").glob("*-0*.json"))
    ) == 14
    assert main(["probes", "evaluate", str(experiment)]) == 0
    whole = pd.read_csv(experiment / "scores.csv")
    assert len(whole) == 8 * 14
    last = whole[(whole["epoch"] == 8) & (whole["through"] == "layer")].set_index("layer")["accuracy"]
    assert last.idxmax() == 3
    (folders[0] / "predictions" / "layer-02.json").unlink()
    (folders[1] / "predictions" / "layer-03.json").write_text('{"toy-word/validation/0": "doc')
    capsys.readouterr()
    assert main(["probes", "evaluate", str(experiment)]) == 1
    told = capsys.readouterr()
    assert (
        "layer-02.json is missing" in told.err
        and "layer-03.json" in told.err
        and told.err.count("not scored") == 2
        and "Traceback" not in told.err
    )
    assert len(pd.read_csv(experiment / "scores.csv")) == 8 * 14 - 2
    one = folders[7]
    assert main(["probes", "evaluate", str(one / "predictions")]) == 0 and main(["probes", "evaluate", str(one)]) == 0


def test_broken_probes_are_named_and_the_rest_predicts(experiment, capsys):
    folders = sorted(p.parent for p in experiment.rglob("probes.json"))
    (folders[2] / "probes.safetensors").write_bytes(b"not weights")
    about = json.loads((folders[3] / "probes.json").read_text())
    (folders[3] / "probes.json").write_text(json.dumps(about | {"weights": "0" * 16}))
    assert main(["probes", "predict", str(experiment)]) == 1
    told = capsys.readouterr()
    assert (
        "epoch-3/probes.safetensors cannot be read" in told.err
        and "other weights of planted" in told.err
        and len(told.out.splitlines()) == 6
    )
    assert main(["probes", "predict", str(experiment / "nowhere")]) == 2
    assert "holds no probes" in capsys.readouterr().err


def test_train_writes_the_study_that_it_runs(tmp_path, capsys):
    asked = [
        "probes",
        "train",
        "both",
        "2",
        "--name",
        "01_lr1e-2",
        "--task",
        "toy-similarity",
        "--encoder",
        "tiny-random",
        "--out",
        str(tmp_path),
        "--set",
        "train_examples=100",
    ]
    assert main([*asked, "--dry-run"]) == 0
    assert "3 runs, 0 done" in capsys.readouterr().out and (tmp_path / "01_lr1e-2" / "01_lr1e-2.yaml").is_file()
    assert main(["probes", "train", "both", "3", *asked[4:]]) == 2
    assert "is another experiment" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["probes", "train", "all", "2", *asked[4:]])
    assert (
        main(
            [
                "probes",
                "train",
                "fine_tuned",
                "2",
                "--name",
                "02",
                "--task",
                "toy-similarity",
                "--encoder",
                "tiny-random",
                "--out",
                str(tmp_path),
                "--fine-tuned",
                "nobody",
            ]
        )
        == 2
    )
    assert "nobody" in capsys.readouterr().err
