"""LoRA in every family: the right layers by asking, the same function at first, right merging; or the reason."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from bertvision.core.errors import ParameterError
from bertvision.data.tasks import get_task
from bertvision.models.encoders import Encoder, count_parameters, load_encoder
from bertvision.models.freezing import evaluating
from bertvision.models.lora import add_lora, merge_lora, projections

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_families import OWN, build  # noqa: E402

REFUSED = {
    "fnet": "mixes tokens without query and value projections",
    "ibert": "a QuantLinear",
    "ibert quant": "a QuantLinear|carries anything",
    "mra": "no block of MraModel carries anything from one token to another",
    "squeezebert": "a Conv1d",
    "xlnet": "parameters without a layer of their own .*q of XLNetRelativeAttention",
}
LAYERS = {
    "deberta": ["in_proj"],
    "deberta-v2": ["query_proj", "value_proj"],
    "deberta-v2 shared": ["query_proj", "value_proj"],
    "funnel": ["q_head", "v_head"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "reformer": ["query", "value", "query_key"],
}
LAYERS |= dict.fromkeys(["distilbert", "distilbert sinus", "flaubert", "xlm"], ["q_lin", "v_lin"])
LAYERS |= dict.fromkeys(
    ["esmc", "eurobert", "gte", "jina_embeddings_v3", "nomic_bert", "ultrabert"], ["q_proj", "v_proj"]
)


def logits(model, ids):
    with torch.random.fork_rng(), torch.no_grad(), evaluating(model):
        torch.manual_seed(0)
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def check(name):
    encoder = Encoder(name, build(name, head=True), tokenizer=None, task=get_task("toy-sentiment"))
    if name in REFUSED:
        with pytest.raises(ParameterError, match=REFUSED[name]):
            add_lora(encoder, 4)
        return
    assert set(projections(encoder.model)) == set(LAYERS.get(name, ["query", "value"])), projections(encoder.model)
    ids = torch.randint(5, 50, (2, 24 if not name.startswith("nystrom") else 64))
    before = logits(encoder.model, ids)
    names = [n for n, _ in encoder.model.named_parameters()]
    body = encoder.model.base_model_prefix
    head = sum(p.numel() for n, p in encoder.model.named_parameters() if not n.startswith(f"{body}."))
    add_lora(encoder, 4)
    assert logits(encoder.model, ids).equal(before)
    updates = {n: p for n, p in encoder.model.named_parameters() if "lora_" in n}
    assert count_parameters(encoder)["trainable"] == head + sum(p.numel() for p in updates.values())
    with torch.no_grad():
        for p in updates.values():
            p.normal_(std=0.3)
    changed = logits(encoder.model, ids)
    assert not torch.allclose(changed, before)
    merged = merge_lora(encoder).model
    assert [n for n, _ in merged.named_parameters()] == names
    assert torch.allclose(logits(merged, ids), changed, atol=1e-4 * float(changed.abs().max())), name


@pytest.mark.parametrize("name", ["modernbert", "mpnet", "deberta", "fnet", "ibert", "squeezebert"])
def test_lora_is_right_or_refused(name):
    check(name)


@pytest.mark.long
@pytest.mark.parametrize("name", OWN)
def test_lora_is_right_or_refused_in_any_family(name):
    check(name)


def test_asking_changes_nothing():
    """The model, the random numbers and the draws of the updates are those of a run that names the layers itself."""
    import peft

    task = get_task("toy-sentiment")
    encoder = load_encoder("tiny-random", task)
    weights = copy.deepcopy(encoder.model.state_dict())
    state = torch.random.get_rng_state()
    assert projections(encoder.model) == ["query", "value"]
    assert state.equal(torch.random.get_rng_state())
    assert not any("forward" in vars(m) for m in encoder.model.modules())
    assert all(v.equal(weights[k]) for k, v in encoder.model.state_dict().items())
    by_name = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["query", "value"], modules_to_save=["classifier"])
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = peft.get_peft_model(load_encoder("tiny-random", task).model, by_name)
    got = add_lora(encoder, 3, seed=5).model
    values = dict(got.named_parameters())
    assert list(values) == [n for n, _ in expected.named_parameters()]
    assert all(
        p.equal(values[n]) and p.requires_grad == values[n].requires_grad for n, p in expected.named_parameters()
    )


def test_an_encoder_without_a_head_gets_updates_alone():
    encoder = add_lora(load_encoder("tiny-random"), 2)
    assert {n.split(".")[-3] for n, p in encoder.model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
