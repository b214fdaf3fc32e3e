"""Freezing, in every family: real steps of an optimiser move no frozen state, and move what is above."""

import sys
from pathlib import Path

import pytest
import torch
import transformers as tf

from bertvision.core.errors import EncoderError
from bertvision.data.tasks import get_task
from bertvision.models.encoders import Encoder, count_parameters
from bertvision.models.freezing import body_of, evaluating, freeze, hidden_states, parameters_below, runnable_text

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_families import OWN, build  # noqa: E402

REFUSED = {"ibert quant": "adjusts .* statistics"}
LENGTHS = {"reformer": 128, "nystromformer": 64, "nystromformer landmarks": 64}  # that they read in training


def encoder_of(name):
    return Encoder(name, build(name, head=True), tokenizer=None, task=get_task("toy-sentiment"))


def states_of(model, ids):
    with torch.random.fork_rng(), torch.no_grad(), evaluating(model):
        torch.manual_seed(0)
        bare = body_of(model)(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        headed = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    return [torch.cat(pair) for pair in zip(bare.hidden_states, headed.hidden_states, strict=True)]


def train(model, ids, steps=2):
    """Two steps on a loss of logits and of all states, with dropout."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        loss = out.logits.float().square().sum() + sum(h.float()[..., 0].square().mean() for h in out.hidden_states)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def check(name, numbers=None):
    encoder = encoder_of(name)
    with evaluating(encoder.model):
        blocks = len(hidden_states(body_of(encoder.model), runnable_text(body_of(encoder.model)))) - 1
    for n in numbers or sorted({1, blocks - 1, blocks, -1}):
        encoder = encoder_of(name)
        if name in REFUSED:
            with pytest.raises(EncoderError, match=REFUSED[name]):
                freeze(encoder, n)
            continue
        freeze(encoder, n)
        ids = torch.randint(5, 50, (2, LENGTHS.get(name, 24)), generator=torch.Generator().manual_seed(n))
        before = states_of(encoder.model, ids)
        weights = {k: v.clone() for k, v in encoder.model.named_parameters()}
        train(encoder.model, ids)
        after = states_of(encoder.model, ids)
        kept = [a.nan_to_num().equal(b.nan_to_num()) for a, b in zip(before, after, strict=True)]
        frozen = blocks if n == -1 else n
        assert all(kept[: frozen + 1]), (name, n, kept)
        assert any(not v.equal(weights[k]) for k, v in encoder.model.named_parameters()), (name, n)
        shared = [note for note in encoder.notes if "share parameters" in note]
        assert all(kept) == (frozen == blocks or any("no block is trained" in note for note in shared)), (name, n, kept)
        if frozen < blocks and not shared:
            assert not kept[frozen + 1], (name, n, kept)


@pytest.mark.parametrize("name", ["albert", "deberta-v2", "xlm", "funnel"])
def test_frozen_states_do_not_move(name):
    check(name, [1])


@pytest.mark.long
@pytest.mark.parametrize("name", OWN)
def test_frozen_states_do_not_move_in_any_family(name):
    check(name)


class Plain(torch.nn.Module):
    """An encoder that returns its last state alone, so that its states are found through hooks."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(128, 8)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.shared = torch.nn.Parameter(torch.ones(8))
        self.spare = torch.nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask=None):
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x * self.shared).tanh()
        return x


def test_states_that_only_hooks_see():
    model = Plain()
    assert parameters_below(model, 1) == ["shared", "words.weight", "blocks.0.weight", "blocks.0.bias"]
    assert len(parameters_below(model, 3)) == 8
    with pytest.raises(EncoderError, match="Plain has 3 blocks"):
        parameters_below(model, 4)


class Hidden(torch.autograd.Function):
    """A step whose derivative nobody wrote down."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.mark_non_differentiable(out := x * weight)
        return out


def test_a_parameter_that_autograd_does_not_see_is_found_by_moving_it():
    model = Plain()
    model.blocks[0].forward = lambda x: Hidden.apply(x, model.blocks[0].weight[0])
    assert parameters_below(model, 1) == ["shared", "words.weight", "blocks.0.weight"]


def test_the_relative_bias_of_t5_feeds_all_blocks_but_no_embedding():
    config = tf.T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    model = tf.T5EncoderModel(config)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert [bias in parameters_below(model, n) for n in range(3)] == [False, True, True]


def test_blocks_that_share_are_noted_and_counted():
    whole = count_parameters(encoder_of("albert"))
    one = freeze(encoder_of("albert"), 1)
    assert one.notes == ["freeze = 1: blocks share parameters, so the states up to 3 are frozen; no block is trained"]
    left = count_parameters(one)["trainable"]
    assert 0 < count_parameters(freeze(encoder_of("albert"), -1))["trainable"] < left < whole["trainable"]
    half = freeze(encoder_of("albert groups"), 1)
    assert half.notes == ["freeze = 1: blocks share parameters, so the states up to 2 are frozen"]
