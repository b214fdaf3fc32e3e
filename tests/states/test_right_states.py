"""Stored, streamed, embedded and predicted values are those of plain transformers: each text alone, not padded.

The encoders are tiny and random, one of each kind: with segments that the tokenizer leaves out, padded on the left with
CLS last, dependent on padding, and with a norm behind the last block.
"""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
import transformers as tf

from bertvision.core.errors import EncoderError, ParameterError
from bertvision.data.batches import tokenise
from bertvision.models.encoders import Encoder, torch_seed
from bertvision.qa.windows import make_windows
from bertvision.states.embed import embed_texts
from bertvision.states.store import open_states
from bertvision.states.stream import Stream, extract
from bertvision.training.trainer import fit, predict

WORDS = "the dog barks loudly a cat sleeps on old mat and every bird sings".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz[]<>/"
SIZES = dict(num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=32)
FIRST = [WORDS[:2], WORDS[3:10], WORDS[:1], WORDS[4:6], WORDS[2:11], WORDS[5:7]]
SECOND = [WORDS[5:8], WORDS[1:4], WORDS[9:], WORDS[8:11], WORDS[2:5], WORDS[3:6]]
TEXTS = [" ".join(words) for words in FIRST]
PAIRS = [" ".join(words) for words in SECOND]


def word_pieces():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)]
    return tf.BertTokenizerFast(vocab={w: i for i, w in enumerate(dict.fromkeys(names))})


def sentence_pieces(cls, special):
    pieces = [(s, 0.0) for s in special] + [(f"▁{w}", -1.0) for w in WORDS] + [(c, -9.0) for c in f"▁{LETTERS}"]
    return cls(vocab=[*dict(pieces).items()])


def tokenizer_of(family):
    if family == "Albert":
        return sentence_pieces(tf.AlbertTokenizerFast, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    if family == "XLNet":
        names = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
        return sentence_pieces(tf.XLNetTokenizerFast, names)
    return word_pieces()


MORE = {
    "Albert": dict(embedding_size=8),
    "RoFormer": dict(embedding_size=16),
    "XLNet": dict(d_model=16, n_layer=2, n_head=2, d_inner=32),
    "ModernBert": dict(pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3),
    "Esm": dict(pad_token_id=0, mask_token_id=4, position_embedding_type="rotary"),
}
SEGMENTS = ("Bert", "Albert", "RoFormer", "XLNet", "FNet", "ConvBert", "Nystromformer")
EQUAL = ("FNet", "Yoso", "ConvBert", "Nystromformer")
NORMS = {"ModernBert": "final_norm", "Esm": "encoder.emb_layer_norm_after", "RobertaPreLayerNorm": "LayerNorm"}
FAMILIES = list(dict.fromkeys([*SEGMENTS, *EQUAL, *NORMS]))


def build(family, head="Model", **config):
    "An encoder whose tokenizer was taught as its card would."
    tokenizer = tokenizer_of(family)
    options = {"vocab_size": len(tokenizer), **(SIZES if family != "XLNet" else {}), **MORE.get(family, {}), **config}
    with torch_seed(1):
        made = getattr(tf, f"{family}Config")(**options)
        made._attn_implementation = "eager"
        model = getattr(tf, f"{family}{head}")(made).eval()
        for name, p in model.named_parameters():  # far from a new model's, so that every part matters
            if "embed_positions" not in name:  # RoFormer's sines, which make its positions relative
                p.data.add_(torch.randn_like(p) * 0.2)
    names = ["input_ids", "attention_mask"]
    tokenizer.model_input_names = names + ["token_type_ids"] * (family in SEGMENTS)
    tokenizer.cls_place = -1 if family == "XLNet" else 0
    tokenizer.batches = "equal" if family in EQUAL else "any"
    return Encoder(f"tiny-{family}", model, tokenizer)


def dataset(pairs):
    columns = {"example_id": [str(i) for i in range(len(TEXTS))], "text": TEXTS, "label": [0, 1] * 3}
    return datasets.Dataset.from_dict(columns | ({"text_pair": PAIRS} if pairs else {}))


def alone(encoder, i, pairs, **options):
    "Plain transformers on one text, without padding and mask."
    texts = [TEXTS[i], *([PAIRS[i]] if pairs else [])]
    out = tokenizer_of(encoder.name.removeprefix("tiny-"))(*texts, return_token_type_ids=True, return_tensors="pt")
    inputs = {"input_ids": out["input_ids"]}
    if "token_type_ids" in encoder.tokenizer.model_input_names:
        inputs["token_type_ids"] = out["token_type_ids"]
    with torch.no_grad():
        return encoder.model.eval()(**inputs, **options)


def states_alone(encoder, i, pairs=True):  # (T, S, D)
    return torch.stack([h[0] for h in alone(encoder, i, pairs, output_hidden_states=True).hidden_states], 1)


def error(values, right):
    return float((values - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_states_are_those_of_a_text_alone(family, tmp_path):
    encoder = build(family)
    right = [states_alone(encoder, i) for i in range(len(TEXTS))]
    assert len({len(r) for r in right}) > 2 and len({len(r) for r in right}) < len(TEXTS)
    tokens = tokenise(dataset(True), encoder.tokenizer, cached=False)
    place = encoder.tokenizer.cls_place
    reduced = {"tokens": lambda r: r, "cls": lambda r: r[[place]], "mean": lambda r: r.mean(0, keepdim=True)}
    for kind, reduce in reduced.items():
        path = tmp_path / f"{kind}.h5"
        extract(encoder, tokens, path, kind=kind, dtype="fp32", precision="fp32", chunk=4)
        stored = open_states(path)
        for i, r in enumerate(right):
            assert error(stored.batch([i]).values, reduce(r)) < 1e-5
        rows = np.array([4, 0, 3])
        together = Stream(encoder, tokens, kind, precision="fp32").batch(rows)
        assert error(together.values, torch.cat([reduce(right[i]) for i in rows])) < 1e-5
        assert error(stored.batch(rows).at_cls().values, torch.cat([reduce(right[i])[[place]] for i in rows])) < 1e-5
    assert stored.tokens.equal == (family in EQUAL)


@pytest.mark.parametrize("family", EQUAL)
def test_mixed_lengths_would_be_wrong(family):
    encoder = build(family)
    tokens = replace(tokenise(dataset(True), encoder.tokenizer, cached=False), equal=False)
    values = Stream(encoder, tokens, precision="fp32").batch(np.arange(6)).values
    assert error(values, torch.cat([states_alone(encoder, i) for i in range(6)])) > 1e-3


@pytest.mark.parametrize("family", ["Albert", "RoFormer", "XLNet"])
def test_segments_left_out_would_be_wrong(family):
    encoder = build(family)
    right = torch.cat([states_alone(encoder, i) for i in range(6)])
    encoder.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokens = tokenise(dataset(True), encoder.tokenizer, cached=False)
    assert error(Stream(encoder, tokens, precision="fp32").batch(np.arange(6)).values, right) > 1e-3


@pytest.mark.parametrize("family", ["Bert", "Albert", "XLNet", "FNet", "ConvBert", "Nystromformer", "ModernBert"])
def test_predictions_and_vectors_are_those_of_a_text_alone(family):
    encoder = build(family, "ForSequenceClassification")
    tokens = tokenise(dataset(True), encoder.tokenizer, cached=False)
    right = torch.cat([alone(encoder, i, True).logits for i in range(6)])
    assert error(torch.from_numpy(predict(encoder.model, tokens)), right) < 1e-5
    bare = build(family)
    place = bare.tokenizer.cls_place
    states = [states_alone(bare, i, pairs=False) for i in range(6)]
    pooled = {
        "mean": [s[:, -1].mean(0) for s in states],
        "cls": [s[place, -1] for s in states],
        "mix": [s.mean((0, 1)) for s in states],
    }
    for pool, expected in pooled.items():
        assert error(torch.from_numpy(embed_texts(TEXTS, bare, pool=pool)), torch.stack(expected)) < 1e-5


def test_spans_of_a_left_padded_encoder():
    encoder = build("RoFormer", "ForQuestionAnswering")
    answers = [{"text": ["cat"], "answer_start": [6]}, {"text": [], "answer_start": []}]
    contexts = ["the a cat sleeps on the old mat and every bird sings", "a dog"]
    questions = dict(example_id=["a", "b"], question=["dog", "the bird sings"], context=contexts, answers=answers)
    rows = datasets.Dataset.from_dict(questions)
    right = make_windows(rows, encoder.tokenizer, 24, cached=False)
    encoder.tokenizer.padding_side = "left"
    left = make_windows(rows, encoder.tokenizer, 24, cached=False)
    assert (left.side, left.labels.tolist()) == ("left", right.labels.tolist())
    expected = torch.from_numpy(predict(encoder.model, right))
    assert error(torch.from_numpy(predict(encoder.model, left)), expected) < 1e-5


def raw_outputs(encoder, i, blocks):
    "The states of a text as the model gives them, and the outputs of its blocks."
    raw = []

    def keep(module, arguments, output):
        raw.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    given = states_alone(encoder, i, pairs=False)
    for hook in hooks:
        hook.remove()
    return given, raw


@pytest.mark.parametrize("family", NORMS)
def test_blocks_are_raw_and_normed_have_all_passed_the_norm(family, tmp_path):
    encoder = build(family)
    model = encoder.model
    norm = model.get_submodule(NORMS[family])
    blocks = model.layers if family == "ModernBert" else model.encoder.layer
    tokens = tokenise(dataset(False), encoder.tokenizer, cached=False)
    stored = {}
    for kind in ("model", "blocks", "normed"):
        path = tmp_path / f"{kind}.h5"
        stored[kind] = extract(encoder, tokens, path, dtype="fp32", precision="fp32", states_as=kind)
        assert open_states(path).origin.states_as == kind
    assert [stored[kind].origin.normed for kind in stored] == [(2,), (), (0, 1, 2)]
    assert len({s.fingerprint for s in stored.values()}) == 3
    for i in range(len(TEXTS)):
        given, raw = raw_outputs(encoder, i, blocks)
        right = torch.stack([given[:, 0], *(r.reshape(-1, 16) for r in raw)], 1)
        with torch.no_grad():
            normed = norm(right)
        assert error(stored["model"].batch([i]).values, given) < 1e-5
        assert error(stored["blocks"].batch([i]).values, right) < 1e-5
        assert error(stored["normed"].batch([i]).values, normed) < 1e-5
        assert error(given[:, -1], right[:, -1]) > 1e-2
    with pytest.raises(Exception, match="states_as"):
        extract(encoder, tokens, tmp_path / "model.h5", dtype="fp32", precision="fp32", states_as="blocks")


def test_kinds_of_states_that_an_encoder_lacks():
    encoder = build("Bert")
    tokens = tokenise(dataset(True), encoder.tokenizer, cached=False)
    with pytest.raises(EncoderError, match="'normed': tiny-Bert has no final norm"):
        Stream(encoder, tokens, states_as="normed")
    blocks = Stream(encoder, tokens, states_as="blocks", precision="fp32")
    usual = Stream(encoder, tokens, precision="fp32")
    assert torch.equal(blocks.batch([1, 2]).values, usual.batch([1, 2]).values)
    assert usual.origin.normed == ()
    encoder.tokenizer.cls_place = None
    without = tokenise(dataset(True), encoder.tokenizer, cached=False)
    with pytest.raises(EncoderError, match="has no CLS token"):
        Stream(encoder, without, "cls")
    with pytest.raises(ParameterError, match="no CLS token"):
        Stream(encoder, without).batch([0]).at_cls()


def test_an_encoder_of_equal_batches_can_be_trained():
    from bertvision import load_task
    from bertvision.data.batches import Batches

    data = load_task("toy-sentiment", sizes={"train": 60, "validation": 20})
    encoder = replace(build("FNet", "ForSequenceClassification"), task=data.task)
    result = fit(encoder, data, epochs=1, batch_size=8, precision="fp32", max_length=24)
    train = result.tokens["train"]
    assert train.equal and result.padding_waste == 0
    assert result.steps == len(Batches(train, 8)) > len(train) / 8
