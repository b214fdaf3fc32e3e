#!/usr/bin/env bash
# A registered attention function replaces the attention of an encoder with sinks without a word, and loses the sinks.
#
# Versions: transformers 5.24.0, torch 2.13.0.
#
# Behaviour. AttentionInterface.register gives a name to a function, and set_attn_implementation makes a model call it.
# What a family's attention needs besides query, key, value and mask comes as further keyword arguments; a function in
# the usual form takes them as **kwargs and goes on.
#  - Of 22 encoder families that take such functions, 21 hand over nothing that changes their states: position_ids,
#    use_cache and sliding_window come too, but the mask holds the window already. Softmax over all pairs gives their
#    states to the bit, for padded texts too.
#  - One, openai_privacy_filter, hands over s_aux: a learned logit per head that takes part in the softmax and has no
#    value. Without it every weight of attention is too large. Nothing is raised or logged.
#  - The sign is _supports_sdpa = False. _supports_attention_backend, _supports_flash_attn and _supports_flex_attn are
#    all True for it, so a check of the flag that is named after such functions lets it pass.
#
# Output seen:
#   21 families: the states of eager attention, bit for bit
#   openai_privacy_filter: states differ by 9 % of their size; s_aux was handed over; sdpa False, flash True, flex True
#
# Why it matters in an encoder lab: a faster or an instrumented attention (one that records weights, drops heads or
# approximates) is put into "any encoder" through this door. For the family with sinks the states are others from the
# first block on, and a study of its layers describes a model that nobody has trained.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.4.6

cat > "$work/sinks.py" <<'PY'
import warnings

import torch
import transformers as tf
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

warnings.simplefilter("ignore")
tf.logging.set_verbosity_error()
torch.set_num_threads(1)
FAMILIES = (
    "albert bert bert-generation camembert data2vec-text distilbert electra ernie esm esmc eurobert gte "
    "jina_embeddings_v3 mobilebert modernbert neomme nomic_bert roberta roberta-prelayernorm roc_bert ultrabert "
    "openai_privacy_filter"
).split()
SMALL = dict(
    vocab_size=60,
    hidden_size=32,
    embedding_size=32,
    dim=32,
    num_hidden_layers=2,
    n_layers=2,
    num_attention_heads=2,
    n_heads=2,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=64,
    hidden_dim=64,
    max_position_embeddings=64,
    num_local_experts=4,
    num_experts_per_tok=2,
    layer_types=["full_attention", "sliding_attention"],
    pad_token_id=0,
    bos_token_id=1,
    cls_token_id=1,
    eos_token_id=2,
    sep_token_id=2,
)
handed = set()


def plain(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **others):
    handed.update(name for name, value_of in others.items() if isinstance(value_of, torch.Tensor))
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain", plain)
AttentionMaskInterface.register("plain", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def difference(family):
    default = tf.AutoConfig.for_model(family)
    sizes = {k: v for k, v in SMALL.items() if hasattr(default, k)}
    if not getattr(default, "layer_types", None):
        sizes.pop("layer_types", None)
    torch.manual_seed(0)
    model = tf.AutoModel.from_config(tf.AutoConfig.for_model(family, **sizes), attn_implementation="eager").eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(0, 0.3 if weights.ndim > 1 else 0.1)
    ids = torch.randint(3, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    states = []
    for attention in ("eager", "plain"):
        model.set_attn_implementation(attention)
        handed.clear()
        with torch.no_grad():
            states.append(model(ids, attention_mask=mask).last_hidden_state[mask.bool()])
    return float((states[0] - states[1]).norm() / states[0].norm()), model


same = [family for family in FAMILIES[:-1] if difference(family)[0] == 0]
print(f"{len(same)} families: the states of eager attention, bit for bit")
change, model = difference(FAMILIES[-1])
flags = f"sdpa {model._supports_sdpa}, flash {model._supports_flash_attn}, flex {model._supports_flex_attn}"
names = ", ".join(sorted(handed - {"position_ids"}))
print(f"{FAMILIES[-1]}: states differ by {100 * change:.0f} % of their size; {names} was handed over; {flags}")
PY
"$work/venv/bin/python" "$work/sinks.py" 2>/dev/null | tee "$work/seen"
diff "$work/seen" - <<'EOF'
21 families: the states of eager attention, bit for bit
openai_privacy_filter: states differ by 9 % of their size; s_aux was handed over; sdpa False, flash True, flex True
EOF
