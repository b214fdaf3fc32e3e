"""The card of tiny random encoders of many families; right values are those of plain transformers."""

import json
import shutil

import pytest
import torch
from families import PIECES, build, change, left_tokenizer, states, tokenizer

from bertvision.core.errors import EncoderError
from bertvision.models.card import RELATIVE, ask, card_of, teach
from bertvision.models.encoders import build_random, load_encoder

NO_SEGMENTS = {"deberta", "deberta-v2", "mpnet", "modernbert", "eurobert", "esm", "distilbert", "flaubert"}
ONE_SEGMENT = {"xlm-roberta-xl", "yoso", "gte", "jina_embeddings_v3"}
NORMED = {"xlm-roberta-xl", "roberta-prelayernorm", "megatron-bert", "modernbert", "eurobert", "esm"}
BESIDE = {"fnet", "yoso", "convbert", "mobilebert", "nystromformer"}  # states depend on the longest text of a batch
OTHERS = {
    *("albert", "bert", "roberta", "xlm-roberta", "camembert", "data2vec-text", "ernie", "electra", "longformer"),
    *("squeezebert", "ibert", "rembert", "roformer", "luke", "layoutlm", "roc_bert", "nomic_bert", "xmod", "xlnet"),
}
FAMILIES = sorted(NO_SEGMENTS | ONE_SEGMENT | NORMED | BESIDE | OTHERS)
RESERVED = {  # positions of RoBERTa's kind begin behind the padding token's; 0 here
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "roberta-prelayernorm", "longformer"),
    *("ibert", "luke", "xmod"),
}
TWO_RESERVED = {"mpnet"}


def texts():
    g = torch.Generator().manual_seed(1)
    return [torch.tensor([[2, *torch.randint(5, len(PIECES), (n,), generator=g).tolist(), 3]]) for n in (10, 37)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_card(family):
    own_tokenizer = left_tokenizer() if family == "xlnet" else tokenizer()
    model = build(family)
    card = ask(model, own_tokenizer)
    short, long = texts()
    alone = states(model, short)
    assert (card.family, card.width, card.blocks) == (family, 32, len(alone) - 1)
    # segments
    rows = getattr(model.config, "type_vocab_size", RELATIVE)
    expected = 0 if family in NO_SEGMENTS else 1 if family in ONE_SEGMENT else rows
    assert card.segments == expected
    if card.segments >= 2:
        types = torch.zeros_like(short)
        moved = change(states(model, short, types=types)[:, 0], states(model, short, types=types + (short > 20))[:, 0])
        assert moved > 1e-3
    # padding, on the tokenizer's side
    gap = long.shape[1] - short.shape[1]
    mask = torch.ones(2, long.shape[1], dtype=torch.long)
    padding = torch.zeros(1, gap, dtype=torch.long)
    if card.padding == "left":
        batch, place = torch.cat([torch.cat([padding, short], 1), long]), slice(gap, None)
        mask[0, :gap] = 0
    else:
        batch, place = torch.cat([torch.cat([short, padding], 1), long]), slice(None, short.shape[1])
        mask[0, short.shape[1] :] = 0
    leak = change(alone[:, 0], states(model, batch, mask)[:, 0, place])
    assert (card.batches == "equal") == (leak > 1e-4) == (card.companions > 1e-4) == (family in BESIDE)
    # the rest
    assert (card.cls, card.padding) == ((-1, "left") if family == "xlnet" else (0, "right"))
    assert card.last == ("normed" if family in NORMED else "block")
    reserved = 2 if family in TWO_RESERVED else int(family in RESERVED)
    assert card.longest == (None if family == "xlnet" else 100 - reserved)
    assert "fp32" in card.precisions and card.offsets and not card.cased


def test_the_last_state_of_a_pre_norm_encoder_is_said_to_be_normed():
    """Judged by its size: the rows of a fresh norm have a mean of 0 and a deviation of 1."""
    for family, kind in (("modernbert", "normed"), ("bert", "block")):
        model = build(family)
        assert ask(model, tokenizer()).last == kind
    last = states(build("modernbert"), texts()[0])[-1]
    assert torch.allclose(last.std(-1, unbiased=False), torch.ones(1), atol=1e-2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mistral", "qwen2", "bloom", "biogpt"])
def test_decoders_are_refused(family):
    with pytest.raises(EncoderError, match="is a decoder"):
        ask(build(family), tokenizer())


def test_what_is_no_encoder_is_refused_with_the_reason():
    with pytest.raises(EncoderError, match="a t5 model, which writes a text with a decoder"):
        ask(build("t5"), tokenizer())
    with pytest.raises(EncoderError, match="bert model, which is a decoder by its configuration"):
        ask(build("bert", is_decoder=True), tokenizer())
    with pytest.raises(EncoderError, match="makes states for 9, 5 tokens of a text of 9"):
        ask(build("funnel"), tokenizer())
    with pytest.raises(EncoderError, match="its attention returns nothing"):
        ask(build("mra"), tokenizer())
    with pytest.raises(EncoderError, match="does not read a text of 9 tokens: ValueError: Input language unknown"):
        ask(build("xmod", default_language=None), tokenizer())


@pytest.mark.parametrize("value, reason", [(float("nan"), "not finite"), (0.0, "zero|nothing|same state")])
def test_broken_weights_are_refused(value, reason):
    model = build("bert")
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.fill_(value)
    with pytest.raises(EncoderError, match=reason):
        ask(model, tokenizer())


def test_a_head_that_reads_the_last_token_decides_the_side_of_padding():
    """XLNet with a tokenizer of another make, which pads on the right and has no CLS of its own."""
    made = tokenizer()
    made.cls_token = None
    card = ask(build("xlnet"), made)
    assert (card.cls, card.padding, card.batches) == (-1, "left", "any")


def save(folder, family, made, **options):
    build(family, **options).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def test_albert_reads_segments_and_roberta_none(tmp_path):
    for family, names, types in (
        ("albert", ["input_ids", "attention_mask"], True),
        ("roberta", ["input_ids", "token_type_ids", "attention_mask"], False),
    ):
        made = tokenizer(model_input_names=names)
        kwargs = {} if types else {"type_vocab_size": 1}
        encoder = load_encoder(save(tmp_path / family, family, made, **kwargs))
        out = encoder.tokenizer("a b", "c d e")
        assert ("token_type_ids" in out) == types
        assert any("segment ids are made" in note for note in encoder.notes)
        if types:
            assert out["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    blind = load_encoder(str(tmp_path / "albert"), segments=False)
    assert "token_type_ids" not in blind.tokenizer("a b", "c d") and blind.card.segments == 0
    assert blind.notes[-1] == "segment ids are switched off"
    blind.save(tmp_path / "blind")
    again = load_encoder(str(tmp_path / "blind"))
    assert again.card == blind.card and "token_type_ids" not in again.tokenizer("a b", "c d")
    assert "changes nothing" in load_encoder(str(tmp_path / "roberta"), segments=False).notes[-1]


def test_bigbird_in_sparse_mode_needs_batches_of_equal_length(tmp_path):
    """Its attention is full up to 56 tokens here; a longer companion makes it sparse."""
    for kind, batches in (("block_sparse", "equal"), ("original_full", "any")):
        folder = save(tmp_path / kind, "big_bird", tokenizer(), attention_type=kind)
        encoder = load_encoder(folder)
        assert encoder.card.batches == batches
        assert any("batches of equal length only" in note for note in encoder.notes) == (batches == "equal")
        assert encoder.tokenizer.batches == batches


def test_a_decoder_is_refused_when_it_is_loaded(tmp_path):
    for family, reason in (("gpt2", "gpt2. is a decoder"), ("t5", "a t5 model, which writes a text with a decoder")):
        made = tokenizer()
        made.pad_token = None
        with pytest.raises(EncoderError, match=reason):
            load_encoder(save(tmp_path / family, family, made))
    made = tokenizer()
    made.pad_token = None
    with pytest.raises(EncoderError, match="no padding token|without a padding token"):
        load_encoder(save(tmp_path / "bert", "bert", made))


def test_a_card_is_made_once(tmp_path, monkeypatch):
    from bertvision.models import card as module

    monkeypatch.setenv("BERTVISION_CACHE", str(tmp_path / "cache"))
    folder = build_random(tmp_path / "bert", PIECES)
    first = load_encoder(str(folder))
    monkeypatch.setattr(module, "ask", lambda *args: pytest.fail("asked again"))
    again = load_encoder(str(folder))
    assert again.card == first.card == card_of(first)
    assert len(list((tmp_path / "cache" / "cards").glob("*.json"))) == 1


def test_asking_leaves_no_trace():
    model = build("bert").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    ask(model, tokenizer())
    assert model.training and torch.get_rng_state().equal(seed)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and not model._forward_hooks


def test_teaching_twice_is_teaching_once():
    made, card = tokenizer(), ask(build("bert"), tokenizer())
    names = list(teach(made, card).model_input_names)
    assert teach(made, card).model_input_names == names == ["input_ids", "token_type_ids", "attention_mask"]
    assert type(made).model_input_names == ["input_ids", "token_type_ids", "attention_mask"]


CASED = [*PIECES, "Lung", "lung", "Heart", "heart"]


@pytest.mark.parametrize("files", ["vocab.txt", "tokenizer.json", "both"])
@pytest.mark.parametrize("lower", [True, False])
def test_case_is_that_of_the_folders_own_files(tmp_path, files, lower):
    """A folder that does not say do_lower_case: its tokenizer.json or its vocabulary decides."""
    import transformers as tf

    pieces = [*PIECES, "lung", "heart"] if lower else CASED
    folder = build_random(tmp_path / "encoder", pieces)
    made = tf.BertTokenizerFast(vocab={w: i for i, w in enumerate(pieces)}, do_lower_case=lower)
    made.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        settings.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if files != "tokenizer.json":
        (folder / "vocab.txt").write_text("\n".join(pieces))
    if files == "vocab.txt":
        (folder / "tokenizer.json").unlink()
    encoder = load_encoder(str(folder))
    assert encoder.card.cased == (not lower)
    assert encoder.tokenizer.tokenize("Lung") == (["lung"] if lower else ["Lung"])
    noted = any("so case is kept" in note for note in encoder.notes)
    assert noted == (files == "vocab.txt" and not lower)


def test_a_folder_copy_of_an_encoder_reads_as_its_name(tmp_path):
    from bertvision.models.encoders import locate

    sentence = "The café's Owner, Zoë O'Neil, paid $3,000.50 in Łódź. हिन्दी 北京"
    for name in ("tiny-random", "minilm-l6"):
        encoder = load_encoder(name)
        shutil.copytree(locate(name)[0], tmp_path / name)
        copied = load_encoder(str(tmp_path / name))
        assert copied.tokenizer(sentence)["input_ids"] == encoder.tokenizer(sentence)["input_ids"]
        assert copied.card == encoder.card
        encoder.save(tmp_path / f"{name}-saved")
        saved = load_encoder(str(tmp_path / f"{name}-saved"))
        assert saved.tokenizer(sentence)["input_ids"] == encoder.tokenizer(sentence)["input_ids"]


def test_segment_ids_that_an_encoder_lacks_are_no_index_error():
    """XLNet's tokenizer numbers its CLS 2; BERT has two segments."""
    with pytest.raises(EncoderError, match="has 2 segments, and its tokenizer gives a pair segment ids up to 2"):
        ask(build("bert"), left_tokenizer())
