"""Every kind of attention that can be asked for: the states of eager attention, or refused with the reason."""

import pytest
import torch
from every_family import family_names, tiny_ids, tiny_model

from bertvision.core.errors import EncoderError
from bertvision.models.cpu import FAST_CPU, speed_up
from bertvision.models.encoders import ATTENTIONS, load_encoder
from bertvision.models.sparse import steady_mode

QUICK = ("bert", "eurobert-grouped", "big_bird")
UNREADABLE = {"bros", "nystromformer-landmarks"}  # needs boxes; reads texts of exactly 64 tokens
FAMILIES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in family_names() if n not in UNREADABLE]


def states(model, length=40, padding=7):
    ids = tiny_ids(model, length)
    mask = torch.ones_like(ids)
    mask[1, length - padding :] = 0
    torch.manual_seed(0)  # Reformer draws its hashes in evaluation too
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    return [h[mask.bool()] if h.shape[1] == length else h[:1] for h in out]


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_eager_attention(family, tmp_path):
    """Loaded with each kind of attention; on a CPU `auto` is fast_cpu where the family takes its attention by name."""
    tiny_model(family).save_pretrained(tmp_path)
    load_encoder("tiny-random").tokenizer.save_pretrained(tmp_path)
    exact = states(steady_mode(tiny_model(family)))
    try:
        load_encoder(str(tmp_path), attention="eager")
    except EncoderError as e:
        pytest.skip(f"refused with any attention: {e}")
    for attention in ATTENTIONS:
        try:
            encoder = load_encoder(str(tmp_path), attention=attention)
        except EncoderError as e:
            assert attention == "sdpa" and "does not support an attention implementation" in str(e)
            continue
        for found, right in zip(states(encoder.model.eval()), exact, strict=True):
            assert (found - right).abs().max() <= 1e-5 * right.abs().max().clamp(min=1), attention


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_eager_attention(family):
    """In two steps: with the fast embeddings, which keep their gradient, and with shared keys."""
    found = {}
    if family == "reformer":
        pytest.skip("transformers computes its gradients for texts of one length alone")
    for fast in (False, True):
        model = tiny_model(family).train()
        for module in model.modules():
            if hasattr(module, "p") and isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if fast:
            speed_up(model)
        if fast and getattr(model, "_supports_attention_backend", False):
            model.set_attn_implementation(FAST_CPU)
        for step in range(2):
            model.zero_grad()
            torch.manual_seed(step)
            ids = tiny_ids(model, 16, seed=step)
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
            (out * torch.randn(out.shape)).sum().backward()
        found[fast] = {n: p.grad for n, p in model.named_parameters()}
    largest = max(g.abs().max() for g in found[False].values() if g is not None)
    for name, right in found[False].items():
        if right is None:
            assert found[True][name] is None or not found[True][name].any(), name
        else:
            assert (found[True][name] - right).abs().max() <= 1e-5 * largest, name
