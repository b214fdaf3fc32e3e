"""Special tokens that a text spells out stay text, whatever the kind of tokenizer, and no call leaves traces in it."""

import datasets
import pytest
import transformers as tf

from bertvision.data.batches import tokenise, tokenizer_fingerprint
from bertvision.qa.windows import tokenise_texts

WORDS = "the dog barks".split()
LETTERS = "abcdefghijklmnopqrstuvwxyzACEKLMPS[]<>/"


def word_pieces(cls, special):
    return cls(vocab={w: i for i, w in enumerate([*special, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)])})


def sentence_pieces(cls, special):
    pieces = [(s, 0.0) for s in special] + [(f"▁{w}", -1.0) for w in WORDS] + [(c, -9.0) for c in f"▁{LETTERS}"]
    return cls(vocab=pieces)


def byte_level(cls, special):
    return cls(vocab={c: i for i, c in enumerate([*special, *LETTERS, "Ġ"])}, merges=[])


BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>"]
KINDS = {
    "Bert": (word_pieces, BERT),
    "Funnel": (word_pieces, ANGLES),
    "Albert": (sentence_pieces, ["<pad>", "<unk>", *BERT[2:]]),
    "RemBert": (sentence_pieces, ["<pad>", "<unk>", *BERT[2:]]),
    "BigBird": (sentence_pieces, ["<pad>", "</s>", "<s>", "<unk>", *BERT[2:]]),
    "XLNet": (sentence_pieces, ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]),
    "Roberta": (byte_level, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
    "Deberta": (byte_level, ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    make, special = KINDS[request.param]
    return make(getattr(tf, f"{request.param}TokenizerFast"), special)


def specials(tokenizer, ids):
    known = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [i for i in ids.tolist() if i in known]


def test_a_text_cannot_spell_a_special_token(tokenizer):
    clean = datasets.Dataset.from_dict(
        {"example_id": ["a", "b"], "text": ["the dog", "dog"], "text_pair": ["barks", "the"], "label": [0, 1]}
    )
    template = specials(tokenizer, tokenise(clean.select([0]), tokenizer, cached=False).input_ids)
    for token in sorted(set(tokenizer.all_special_tokens) - {tokenizer.unk_token}):
        columns = {"text": [f"the {token} dog", f"{token}dog"], "text_pair": [f"{token} barks", f"the{token}"]}
        rows = datasets.Dataset.from_dict({"example_id": ["a", "b"], "label": [0, 1], **columns})
        tokens = tokenise(rows, tokenizer, cached=False)
        for start, end in zip(tokens.offsets[:-1], tokens.offsets[1:]):
            assert specials(tokenizer, tokens.input_ids[start:end]) == template, token
        texts = tokenise_texts(columns["text"], tokenizer, cached=False)
        assert specials(tokenizer, texts.ids) == []
        assert texts.chars[texts.offsets[1] - 1, 1] == len(columns["text"][0])  # places in the text stay


def test_a_call_leaves_no_traces(tokenizer):
    before, fingerprint = tokenizer.backend_tokenizer.to_str(), tokenizer_fingerprint(tokenizer)
    rows = datasets.Dataset.from_dict({"example_id": ["a"], "text": ["the dog barks"], "label": [0]})
    tokenise(rows, tokenizer, max_length=4, cached=False)
    tokenise_texts(["the dog"], tokenizer, cached=False)
    assert tokenizer.backend_tokenizer.to_str() == before
    assert tokenizer_fingerprint(tokenizer) == fingerprint


def test_segments_tell_two_texts_apart(tokenizer):
    names = tokenizer.model_input_names
    tokenizer.model_input_names = ["input_ids", "attention_mask", "token_type_ids"]
    rows = datasets.Dataset.from_dict({"example_id": ["a"], "text": ["the dog"], "text_pair": ["barks"], "label": [0]})
    tokens = tokenise(rows, tokenizer, cached=False)
    tokenizer.segments = 2
    two = tokenise(rows, tokenizer, cached=False)
    tokenizer.model_input_names = names
    del tokenizer.segments
    out = tokenizer(["the dog"], ["barks"])
    for types in (tokens.types, two.types):
        for segment in (0, 1):
            places = [i for i, s in enumerate(out.sequence_ids(0)) if s == segment]
            assert set(types[places].tolist()) == {segment}
    assert two.types.max() == 1
