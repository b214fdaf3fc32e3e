"""A span head for every encoder with tokens: two finite logits a token, saved, loaded, trained from top to bottom."""

import inspect
import json

import numpy as np
import pytest
import torch
import transformers as tf
from datasets import Dataset
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES as IN_TRANSFORMERS

from bertvision.data.batches import collate, longest_first
from bertvision.data.tasks import get_task
from bertvision.models.encoders import build_random, load_encoder
from bertvision.qa.decoding import answers, decode_spans
from bertvision.qa.windows import make_windows
from bertvision.training.trainer import batch_loss, predict

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), ".", "[", "]"]
SMALL = dict(
    vocab_size=len(PIECES),
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=72,
    pad_token_id=0,
    bos_token_id=2,
    cls_token_id=2,
    eos_token_id=3,
    sep_token_id=3,
)
UNNAMED = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
OWN = {  # what a family calls otherwise, or needs besides; None: it takes no such setting
    "albert": dict(embedding_size=16),
    "big_bird": dict(attention_type="block_sparse", block_size=8, num_random_blocks=1),
    "convbert": dict(embedding_size=32, head_ratio=2, conv_kernel_size=3),
    "deberta": dict(relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0),
    "deberta-v2": dict(
        relative_attention=True, position_biased_input=False, type_vocab_size=0, pos_att_type=["p2c", "c2p"]
    ),
    "distilbert": dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    "electra": dict(embedding_size=16),
    "longformer": dict(attention_window=8),
    "luke": dict(entity_vocab_size=8, entity_emb_size=16),
    "mobilebert": dict(embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=1),
    "nystromformer": dict(num_landmarks=64, segment_means_seq_len=64),
    "rembert": dict(input_embedding_size=16, output_embedding_size=16),
    "roformer": dict(embedding_size=32),
    "squeezebert": dict(embedding_size=32),
    "xlnet": dict(UNNAMED, max_position_embeddings=None, d_model=32, n_layer=2, n_head=2, d_inner=64),
    "xmod": dict(languages=["en_XX"], default_language="en_XX"),
    "yoso": dict(use_expectation=True, hash_code_len=4, num_hash=4),
}
MADE_HERE = ["eurobert", "gte", "layoutlm", "nomic_bert"]  # transformers has no span head for them
FAMILIES = sorted(
    [
        *("albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie").split(),
        *("fnet ibert longformer luke megatron-bert mobilebert modernbert mpnet nystromformer rembert").split(),
        *("roberta roberta-prelayernorm roformer squeezebert xlm-roberta xlm-roberta-xl xlnet xmod yoso").split(),
        *MADE_HERE,
    ]
)
TEXT = "a red boat. a cab fed a bad bee"
DATA = Dataset.from_dict(
    {
        "example_id": ["1", "2", "3"],
        "question": ["who", "who fed a bee", "what"],
        "context": [TEXT, TEXT + " [SEP] and [CLS] a dog. " + TEXT, "a bee"],
        "answers": [
            {"text": ["red boat"], "answer_start": [2]},
            {"text": ["a cab"], "answer_start": [12]},
            {"text": [], "answer_start": []},
        ],
    }
)


def checkpoint_of(family, folder):
    """A bare random encoder of a family, with BERT's tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {k: v for k, v in (SMALL | OWN.get(family, {})).items() if v is not None}
        config = tf.AutoConfig.for_model(family, **options)
        model = tf.AutoModel.from_config(config)
    model.save_pretrained(folder)
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        if (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
            names.append("token_type_ids")
    tf.BertTokenizerFast(
        vocab={w: i for i, w in enumerate(PIECES)}, model_max_length=64, model_input_names=names
    ).save_pretrained(folder)
    return str(folder)


def span_layers(model):
    return [p for n, p in model.named_parameters() if not n.startswith(f"{model.base_model_prefix}.")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_questions(family, tmp_path):
    assert (family in IN_TRANSFORMERS) == (family not in MADE_HERE)
    task = get_task("squad2")
    encoder = load_encoder(checkpoint_of(family, tmp_path / "bare"), task)
    assert encoder.notes[0] == "the head is new, initialised from the seed"
    assert [p.shape[0] for p in span_layers(encoder.model)][-1] == 2
    windows = make_windows(DATA, encoder.tokenizer, 40, 16, cached=False)
    assert len(windows) > 3
    logits = predict(encoder.model, windows)
    assert logits.shape == (len(windows.input_ids), 2) and np.isfinite(logits).all()
    assert set(answers(decode_spans(windows, logits))) == {"1", "2", "3"}

    encoder.model.train()
    rows = next(iter(longest_first(windows.lengths, 120, equal=windows.equal)))
    batch_loss(encoder.model, collate(windows, rows), "span").backward()
    words = encoder.model.get_input_embeddings().weight
    outputs = [p for p in span_layers(encoder.model) if p.ndim == 2][-1]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (outputs, words))

    encoder.save(tmp_path / "tuned")
    again = load_encoder(str(tmp_path / "tuned"), task)
    assert again.notes[0] == "the head is the checkpoint's own"
    assert np.array_equal(predict(again.model, windows), logits)
    body, bare = (dict(load_encoder(str(tmp_path / name)).model.named_parameters()) for name in ("tuned", "bare"))
    assert all(bare[name].equal(value) for name, value in body.items() if "pooler" not in name)


def test_heads_made_here_are_one_linear_layer_and_can_be_reset(tmp_path):
    task = get_task("squad2")
    folder = checkpoint_of(MADE_HERE[0], tmp_path / "bare")
    first, second = (load_encoder(folder, task, seed=seed).model.state_dict() for seed in (0, 1))
    assert [name for name in first if not first[name].equal(second[name])] == ["qa_outputs.weight"]
    encoder = load_encoder(folder, task)
    torch.nn.init.ones_(encoder.model.qa_outputs.weight)
    encoder.save(tmp_path / "tuned")
    assert (load_encoder(str(tmp_path / "tuned"), task).model.qa_outputs.weight == 1).all()
    assert (load_encoder(str(tmp_path / "tuned"), task, new_head=True).model.qa_outputs.weight != 1).any()
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["architectures"] == [type(encoder.model).__name__]


def test_automatic_classes_take_no_beam_search():
    """A head with a beam search gives no logits for every token."""
    for name in IN_TRANSFORMERS.values():
        head = getattr(tf, name, None)
        if head is not None:
            assert "start_top_k" not in inspect.getsource(head), name


@pytest.mark.parametrize("separators", [1, 2])
def test_longformer_sees_the_question_whatever_its_tokenizer(separators, tmp_path):
    folder = build_random(
        tmp_path / "longformer", PIECES, family="longformer", attention_window=4, hidden_size=32, intermediate_size=64
    )
    task = get_task("squad2")
    encoder = load_encoder(str(folder), task)
    rows = DATA.select([1]).map(lambda r: {"context": r["context"] + " [SEP] " * 3})
    windows = make_windows(rows, encoder.tokenizer, 256, cached=False)
    ids = torch.tensor(windows.input_ids[None].astype(np.int64))
    if separators == 2:
        at = int(windows.start[0])
        ids = torch.cat([ids[:, :at], torch.tensor([[3]]), ids[:, at:]], 1)
    model = encoder.model.eval()
    with torch.no_grad():
        given = model(ids).start_logits
        changed = ids.clone()
        changed[0, 1] = 9  # the first letter of the question, far from the end of the context
        assert (model(changed).start_logits - given)[0, -2].abs() > 1e-6
        if separators == 2:  # three in all: transformers' own mask
            plain = tf.LongformerForQuestionAnswering(model.config).eval()
            plain.load_state_dict(model.state_dict())
            assert torch.allclose(plain(ids).start_logits, given, atol=1e-6)
