"""Half precision where an encoder works in it, float32 with a note where it does not, one error if it was asked for."""

import numpy as np
import pytest
import torch
from every_family import family_names, tiny_ids, tiny_model

from bertvision import load_encoder
from bertvision.core.errors import EncoderError, ParameterError
from bertvision.data.batches import Tokens
from bertvision.models import precision as module
from bertvision.models.encoders import Encoder, build_random
from bertvision.models.precision import CLOSE, autocast, precision_fault, runs_in, usable_precision
from bertvision.models.sparse import attention_mode, steady_mode
from bertvision.states.stream import Stream, extract

QUICK = ("deberta", "funnel")
FAILING = {"deberta", "deberta-relative", "xmod", "ibert-quantised"}  # Reformer's hashes may change, too
UNREADABLE = {"bros", "nystromformer-landmarks"}  # needs boxes; reads texts of exactly 64 tokens
POOLED = {"canine", "funnel"}
FAMILIES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in family_names() if n not in UNREADABLE]


@pytest.fixture(autouse=True)
def bf16_everywhere(monkeypatch):
    """As on a machine that multiplies bf16 fastest."""
    monkeypatch.setattr(module, "choose_precision", lambda wanted="auto": "bf16" if wanted == "auto" else wanted)


def tiny_encoder(family, **changes) -> Encoder:
    model = steady_mode(tiny_model(family, **changes))
    tokenizer = load_encoder("tiny-random").tokenizer
    return Encoder(family, model, tokenizer)


def tiny_tokens(lengths=(40, 9, 33), seed=0) -> Tokens:
    ids = np.random.default_rng(seed).integers(5, 60, sum(lengths), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    names = [str(i) for i in range(len(lengths))]
    return Tokens(ids, None, offsets, np.zeros(len(lengths), np.int64), names, pad_id=0)


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_of_auto_are_those_in_fp32_within_rounding(family):
    encoder = tiny_encoder(family)
    ids = tiny_ids(encoder.model, 40)
    exact = states(encoder.model, ids)
    weights = {n: p.clone() for n, p in encoder.model.named_parameters()}
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    chosen = usable_precision(encoder)
    assert torch.get_rng_state().equal(before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert all(p.equal(weights[n]) and p.grad is None for n, p in encoder.model.named_parameters())
    if family != "reformer":
        assert chosen == ("fp32" if family in FAILING else "bf16")
    assert len(encoder.notes) == (chosen == "fp32")
    with autocast("cpu", chosen):
        for rough, fine in zip(states(encoder.model, ids), exact):
            assert (rough.float() - fine).norm() <= CLOSE * fine.norm() or family == "reformer"
            assert chosen == "bf16" or rough.equal(fine)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_extracted_or_refused(family):
    encoder = tiny_encoder(family)
    if family in POOLED:
        with pytest.raises(EncoderError, match="pools its tokens: states .* vectors for 9 tokens"):
            Stream(encoder, tiny_tokens())
        assert Stream(encoder, tiny_tokens(), layers=[0, 1], precision="fp32").batch([0]).values.shape == (40, 2, 32)
        return
    exact = Stream(encoder, tiny_tokens(), precision="fp32").batch([0]).values
    stream = Stream(encoder, tiny_tokens(), precision="auto")
    assert stream.origin.precision == stream.precision
    rough = stream.batch([0]).values
    assert (rough - exact).norm() <= CLOSE * exact.norm() or family == "reformer"


@pytest.mark.parametrize("family", ["deberta", "xmod"])
def test_a_named_precision_that_does_not_work_is_one_error(family):
    encoder = tiny_encoder(family)
    expected = "precision = 'bf16': .*Model does not work in bf16 on this machine: RuntimeError: .*; use auto or fp32"
    for _ in range(2):  # tried once, refused each time
        with pytest.raises(ParameterError, match=expected):
            usable_precision(encoder, "bf16")
    with pytest.raises(ParameterError, match=expected):
        Stream(encoder, tiny_tokens(), precision="bf16")
    assert Stream(encoder, tiny_tokens()).precision == "fp32"
    assert len(encoder.notes) == 1 and "computed in fp32, since" in encoder.notes[0]
    assert runs_in(encoder.model, "fp32") and not runs_in(encoder.model, "bf16")


def test_what_fails_in_fp32_too_is_not_blamed_on_the_precision():
    assert precision_fault(tiny_model("nystromformer-landmarks"), "bf16") == ""
    assert "off those in fp32" in precision_fault(tiny_model("ibert-quantised"), "bf16")


def test_sparse_bigbird_in_bf16_is_stored_as_it_is_streamed(tmp_path):
    vocabulary = load_encoder("tiny-random").tokenizer.get_vocab()
    folder = build_random(
        tmp_path / "bird",
        sorted(vocabulary, key=vocabulary.get),
        family="bigbird",
        attention_type="block_sparse",
        block_size=4,
        num_random_blocks=1,
    )
    encoder = load_encoder(str(folder))
    tokens = tiny_tokens((90, 20, 75))  # sparse, full, sparse
    assert [attention_mode(encoder, n).name for n in (90, 20, 75)] == ["sparse", "full", "sparse"]
    stored = extract(encoder, tokens, tmp_path / "bird.h5", precision="bf16", dtype="fp32")
    exact = Stream(encoder, tokens, precision="fp32")
    for i in range(3):
        rough, fine = stored.batch([i]).values, exact.batch([i]).values
        assert 0 < (rough - fine).norm() <= 0.03 * fine.norm()
