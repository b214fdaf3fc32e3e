"""Every family of encoders that transformers can build, tiny and random."""

import torch
import transformers as tf
from transformers.models.auto import modeling_auto as auto

SMALL = {  # a setting counts where the family's configuration has it
    **dict.fromkeys(("hidden_size", "d_model", "dim", "emb_dim", "embedding_size", "d_embed", "entity_emb_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "ffn_dim", "feed_forward_size"), 40),
    **dict.fromkeys(("num_hash_buckets", "entity_vocab_size", "xpath_unit_hidden_size", "max_depth"), 8),
    **dict.fromkeys(
        ("max_xpath_tag_unit_embeddings", "max_xpath_subs_unit_embeddings", "max_2d_position_embeddings"), 9
    ),
    "vocab_size": 40,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
OWN = {  # what no general setting covers
    "canine": {"max_position_embeddings": 64},
    "esm": {"vocab_size": 40, "mask_token_id": 4, "position_embedding_type": "rotary"},
    "funnel": {
        "block_sizes": [1, 1],
        "block_repeats": [1, 1],
        "d_head": 16,
        "num_hidden_layers": None,
        "num_decoder_layers": 1,
    },
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 1},
    "xlnet": {"d_head": None},
    "roc_bert": {"pronunciation_vocab_size": 9, "shape_vocab_size": 9},
    "longformer": {"attention_window": 8},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attention_head_size": 16,
        "is_decoder": False,
        "num_hidden_layers": None,
    },
}
PARAMETERS = 3_000_000  # of the largest one that counts as tiny


def names() -> list:
    """Model types with a head for masked words or for classes, and not made to write texts."""
    masked = set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    classes = set(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES) - set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    return sorted((masked | classes | {"xlnet"}) & set(auto.MODEL_MAPPING_NAMES))  # XLNet reads both sides


def tiny_config(name: str, **changes):
    """The configuration of a tiny encoder of a family."""
    family = tf.CONFIG_MAPPING[name]
    has = family()
    settings = {k: v for k, v in SMALL.items() if k.endswith("_token_id") or getattr(has, k, None) is not None}
    settings |= OWN.get(name, {}) | changes
    return family(**{k: v for k, v in settings.items() if v is not None})


def reason_against(name: str) -> str:
    """Why a family is no encoder of texts that can be built tiny; '' for one that is."""
    try:
        config = tiny_config(name)
        with torch.device("meta"):
            model = tf.AutoModel.from_config(config)
    except Exception as e:
        return f"{type(e).__name__}: {str(e)[:80]}"
    if getattr(config, "is_encoder_decoder", False):
        return "it has a decoder"
    if model.main_input_name != "input_ids":
        return f"reads {model.main_input_name}"
    size = sum(p.numel() for p in model.parameters())
    return f"{size:,} parameters" if size > PARAMETERS else ""


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


def write_tokenizer(folder):
    """A WordPiece tokenizer of single letters beside any encoder."""
    words = {w: i for i, w in enumerate(VOCABULARY)}
    tf.BertTokenizerFast(vocab=words, model_max_length=60).save_pretrained(folder)


def save_tiny(name: str, folder, head=tf.AutoModel, seed=0, **changes):
    """Write a tiny encoder of a family with a tokenizer as a checkpoint; the model."""
    torch.manual_seed(seed)
    model = head.from_config(tiny_config(name, **changes)).eval()
    with torch.no_grad():
        for value in model.parameters():  # also biases and norms differ from what a new model has
            value.add_(torch.randn_like(value) * 0.02)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model
