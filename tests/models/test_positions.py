"""Positions repeated for longer texts: in every family that has learned ones, or refused with the reason."""

import pytest
import torch
from every_family import family_names, tiny_ids, tiny_model

from bertvision.core.errors import EncoderError, ParameterError
from bertvision.models.attention import extend_positions
from bertvision.models.sparse import attention_mode, steady_mode

QUICK = ("roberta", "nystromformer", "luke")
SAMPLE = ("esm-rotary", "roformer", "xlnet")
# no table of learned positions: relative, rotary, sinusoids, hashed, or none
WITHOUT = {
    *("canine", "deberta-relative", "deberta-v2-relative", "distilbert-sinusoidal", "esm-rotary", "esmc"),
    *("eurobert", "eurobert-grouped", "eurobert-single", "funnel", "funnel-single", "gte", "jina_embeddings_v3"),
    *("modernbert", "neomme", "nomic_bert", "reformer", "roformer", "ultrabert", "xlnet"),
}
UNREADABLE = {"bros", "nystromformer-landmarks"}  # needs boxes; reads texts of exactly 64 tokens


def sample(names):
    "Mark all but a few families as long."
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize("family", sample(n for n in family_names() if n not in WITHOUT | UNREADABLE))
def test_short_texts_keep_their_states_and_long_ones_are_read(family, tmp_path):
    model = steady_mode(tiny_model(family))
    short, long = tiny_ids(model, 16), tiny_ids(model, 150)
    before = states(model, short)
    extend_positions(model, 150)
    assert states(model, short).equal(before)
    after = states(model, long)
    assert after.shape[1] == 150 and after.isfinite().all()
    model.save_pretrained(tmp_path)
    again = steady_mode(type(model).from_pretrained(tmp_path, attn_implementation="eager").eval())
    assert states(again, long).equal(after)
    model.train()(input_ids=long).last_hidden_state.sum().backward()  # BigBird draws its blocks in training alone
    assert extend_positions(model, 150).config.max_position_embeddings == again.config.max_position_embeddings


@pytest.mark.parametrize("family", sample(n for n in family_names() if n not in WITHOUT | UNREADABLE))
def test_the_positions_are_repeated(family):
    """After the learned rows the table begins again."""
    model = steady_mode(tiny_model(family))
    names = [n for n, p in model.named_parameters() if n.endswith("position_embeddings.weight")]
    learned = {n: model.get_parameter(n).detach().clone() for n in names}
    rows = [n for n in names if len(learned[n]) in (96, 98)]
    extend_positions(model, 250)
    assert rows
    for name in rows:
        table, old = model.get_parameter(name), learned[name]
        first = len(table) - (252 if family == "big_bird" else 250)  # whole blocks of four
        period = len(old) - first
        assert table[: len(old)].equal(old) and table[first + period :].equal(table[first:][: len(table) - len(old)])


@pytest.mark.parametrize(
    "family", [n if n in SAMPLE else pytest.param(n, marks=pytest.mark.long) for n in sorted(WITHOUT)]
)
def test_what_has_no_learned_positions_is_refused(family):
    model = tiny_model(family)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ParameterError, match="has no learned positions to repeat: .*(number|rotary|sinusoids)"):
        extend_positions(model, 150)
    assert all(p.equal(before[n]) for n, p in model.named_parameters())


def test_an_encoder_that_does_not_read_tokens_alone_is_refused():
    with pytest.raises(EncoderError, match="embeddings.position_embeddings.weight: expected a table.*bbox"):
        extend_positions(tiny_model("bros"), 150)


def test_bigbird_has_positions_for_the_blocks_that_it_fills_up():
    model = steady_mode(tiny_model("big_bird"))
    extend_positions(model, 150)
    assert attention_mode(model, 150).length == 152 == model.config.max_position_embeddings
    assert {layer.attention.self.max_seqlen for layer in model.encoder.layer} == {152}
    table = model.embeddings.position_embeddings.weight
    assert table[96:].equal(table[:56])


def test_a_length_below_one_is_refused():
    with pytest.raises(ParameterError, match="length = 0"):
        extend_positions(tiny_model("bert"), 0)
