"""Every family of the zoo, built small: loaded with a head, blind to padding, streamed, frozen and saved like BERT."""

import re

import numpy as np
import pytest
import torch
import transformers as tf
from datasets import Dataset

from bertvision.cli import main
from bertvision.core.errors import EncoderError
from bertvision.data.batches import tokenise
from bertvision.data.tasks import all_tasks, get_task
from bertvision.models.encoders import _BUILT, build_random, encoder_fingerprint, load_encoder, locate
from bertvision.models.freezing import freeze
from bertvision.models.registry import ENCODERS, GLUON, all_encoders, check_encoder
from bertvision.states.stream import Stream

FAMILIES = sorted({z.family for z in all_encoders()})
PIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
]
SMALL = dict(
    vocab_size=len(PIECES),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=70,
    pad_token_id=0,
)
OWN = {
    "albert": dict(embedding_size=16),
    "electra": dict(embedding_size=16),
    "longformer": dict(attention_window=8),
    "big_bird": dict(attention_type="block_sparse", block_size=8, num_random_blocks=1, sep_token_id=3),
    "deberta-v2": dict(
        relative_attention=True, position_biased_input=False, type_vocab_size=0, pos_att_type=["p2c", "c2p"]
    ),
    "distilbert": dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    "modernbert": dict(cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
}


@pytest.fixture(params=FAMILIES)
def checkpoint(request, tmp_path):
    """A random checkpoint of a family, as its authors' are: a bare encoder and a tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tf.AutoModel.from_config(tf.AutoConfig.for_model(request.param, **SMALL | OWN.get(request.param, {})))
    model.save_pretrained(tmp_path / "encoder")
    names = ["input_ids", "attention_mask"] + (
        [] if request.param in ("distilbert", "modernbert") else ["token_type_ids"]
    )
    tf.BertTokenizerFast(
        vocab={w: i for i, w in enumerate(PIECES)}, model_max_length=64, model_input_names=names
    ).save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_a_family_works_like_bert(checkpoint, tmp_path):
    task = get_task("toy-sentiment")
    encoder = load_encoder(checkpoint, task)
    assert encoder.notes[0] == "the head is new, initialised from the seed"
    data = Dataset.from_dict(
        {
            "example_id": ["a", "b", "c"],
            "text": ["a cab", "bad cab feed", "a bag of dead bees fed a bee a bad egg"],
            "label": [0, 1, 0],
        }
    )
    tokens = tokenise(data, encoder.tokenizer, 64, cached=False)
    assert (tokens.types is None) == ("token_type_ids" not in encoder.tokenizer.model_input_names)
    for kind in ("mean", "tokens"):
        stream = Stream(encoder, tokens, kind, precision="fp32")
        assert (stream.layers, stream.width) == (3, 32)
        together = stream.batch([2, 0, 1]).values
        assert torch.allclose(torch.cat([stream.batch([i]).values for i in (2, 0, 1)]), together, atol=1e-5), (
            "padding reaches the states"
        )
    trainable = [
        sum(p.numel() for p in freeze(load_encoder(checkpoint, task), n).model.parameters() if p.requires_grad)
        for n in (0, -1)
    ]
    assert 0 < trainable[1] < trainable[0]
    encoder.save(tmp_path / "tuned")
    again = load_encoder(str(tmp_path / "tuned"), task)
    assert again.notes[0].startswith("the head is the checkpoint's own")
    for name, value in encoder.model.state_dict().items():
        assert value.equal(again.model.state_dict()[name]), name


def test_bigbirds_own_padding_is_not_taken_for_tokens(tmp_path):
    """Blocks of 4, texts of 28 tokens: sparse attention, a padded last block, and no text depends on its batch."""
    encoder = load_encoder(
        str(
            build_random(
                tmp_path / "bigbird",
                PIECES,
                family="bigbird",
                attention_type="block_sparse",
                block_size=4,
                num_random_blocks=1,
            )
        )
    )
    data = Dataset.from_dict({"example_id": ["a", "b"], "text": ["a " * 27, "b c d " * 11], "label": [0, 1]})
    tokens = tokenise(data, encoder.tokenizer, 64, cached=False)
    assert tokens.lengths.tolist() == [29, 35]
    for kind in ("mean", "tokens"):
        stream = Stream(encoder, tokens, kind, layers=[0], precision="fp32")
        assert torch.allclose(
            torch.cat([stream.batch([i]).values for i in (0, 1)]), stream.batch([0, 1]).values, atol=1e-6
        )


def test_rows_name_tasks_and_licences_that_exist():
    tasks = {t.name for t in all_tasks()}
    for z in all_encoders():
        assert (
            set(z.seen) <= tasks
            and z.licence in ("Apache-2.0", "MIT", "not stated", "-")
            and (z.licence == "-") == (not z.hub)
        )
        assert z.layers and z.width and z.parameters and z.positions and z.language
        assert not z.revision or re.fullmatch("[0-9a-f]{40}", z.revision)
        assert z.hub or z.name in _BUILT
    assert {z.name for z in all_encoders() if not z.hub} == set(_BUILT)


def test_an_encoder_without_a_commit_is_not_asked_for_one():
    assert locate("roberta-base") == ("FacebookAI/roberta-base", None)
    assert locate("roberta-base", "abc") == ("FacebookAI/roberta-base", "abc")
    assert locate("bert-base-uncased")[1] == ENCODERS["bert-base-uncased"].revision
    assert len({encoder_fingerprint(z.name) for z in all_encoders()}) == len(ENCODERS)


@pytest.mark.parametrize(
    "cell", [c for c in GLUON if c.note != "GluonNLP had none"], ids=lambda c: f"{c.dataset}-{c.model}"
)
def test_an_old_name_is_an_error_that_names_the_new_one(cell):
    with pytest.raises(
        EncoderError, match=f"{re.escape(cell.dataset)} \\({cell.model}\\) is {re.escape(cell.name or cell.note)}"
    ):
        load_encoder(cell.dataset)
    if cell.name:
        assert check_encoder(cell.name) in ("zoo", "hub")


def test_the_listings(capsys):
    assert main(["encoders"]) == 0
    out = capsys.readouterr().out
    for word in (
        "tuned on texts of",
        "mnli xnli-en qqp qnli squad1",
        "hub, not pinned",
        "104 languages",
        "11,170,560",
        "not stated",
        "8,192",
    ):
        assert word in out
    assert all(name in out for name in ENCODERS)
    assert main(["encoders", "--gluon"]) == 0
    out = capsys.readouterr().out
    assert all(c.dataset in out for c in GLUON) and "Huang et al. 2019; bio-clinicalbert is another model" in out


def test_a_plan_says_which_encoders_are_not_pinned(tmp_path, capsys):
    assert main(["plan", "demo", "--encoders", "roberta-base", "bert-base-uncased", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert (
        "bert-base-uncased: from the hub, fingerprinted by id and commit" in out
        and "roberta-base: from the hub, not pinned to a commit" in out
    )


def test_the_small_bert_is_untrained_and_always_the_same():
    a, b = (load_encoder("small-bert").model.state_dict() for _ in range(2))
    assert all(v.equal(b[n]) for n, v in a.items())
    assert np.isclose(a["encoder.layer.3.output.dense.weight"].std().item(), 0.02, rtol=0.02)


def test_the_commit_that_was_loaded_is_told_where_none_is_pinned(tmp_path):
    """A hub's cache with one snapshot, in a process of its own, since the hub's client reads its settings once."""
    import os
    import shutil
    import subprocess
    import sys

    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--FacebookAI--roberta-base"
    shutil.copytree(locate("tiny-random")[0], repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = (
        "from bertvision import load_encoder, get_task; e = load_encoder('roberta-base', get_task('toy-sentiment')); "
        "print(e.revision, e.fingerprint, e.notes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        done.stdout.startswith(f"{commit} {encoder_fingerprint('roberta-base', commit)} ")
        and f"from FacebookAI/roberta-base, not pinned: commit {commit}" in done.stdout
    )
