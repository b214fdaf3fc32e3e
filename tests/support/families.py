"""Tiny random encoders of many families of transformers, and what plain transformers says of their states."""

import torch
import transformers as tf

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=100,
)
IDS = dict(vocab_size=len(PIECES), pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3)
OWN = {  # family: sizes of its own; "-" = in place of the usual ones
    "albert": dict(embedding_size=16),
    "big_bird": dict(block_size=8, num_random_blocks=1),
    "convbert": dict(embedding_size=32, head_ratio=1, conv_kernel_size=3),
    "deberta-v2": dict(relative_attention=True, position_biased_input=False, pos_att_type=["p2c", "c2p"]),
    "distilbert": {"-": 1, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 100},
    "electra": dict(embedding_size=16),
    "esm": dict(position_embedding_type="rotary", mask_token_id=4),
    "flaubert": {"-": 1, "emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 100},
    "fnet": dict(use_tpu_fourier_optimizations=False),
    "funnel": {
        "-": 1,
        "architectures": ["FunnelModel"],
        "block_sizes": [1, 1],
        "d_model": 32,
        "n_head": 2,
        "d_head": 16,
        "d_inner": 64,
    },
    "gpt2": {"-": 1, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 100},
    "longformer": dict(attention_window=8),
    "mistral": dict(num_key_value_heads=2),
    "mobilebert": dict(embedding_size=32, intra_bottleneck_size=16, num_feedforward_networks=1),
    "nystromformer": dict(segment_means_seq_len=64, num_landmarks=64),
    "qwen2": dict(num_key_value_heads=2),
    "reformer": dict(attn_layers=["local"], axial_pos_embds=False, attention_head_size=16, local_attn_chunk_length=8),
    "squeezebert": dict(embedding_size=32, q_groups=2, k_groups=2, v_groups=2, intermediate_groups=2, output_groups=2),
    "t5": {"-": 1, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2},
    "xlnet": {"-": 1, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "xmod": dict(languages=["en_XX"], default_language="en_XX"),
}


def tokenizer(**options):
    return tf.BertTokenizerFast(vocab={w: i for i, w in enumerate(PIECES)}, model_max_length=100, **options)


def left_tokenizer():
    """As XLNet's: padding on the left, CLS at the end."""
    from tokenizers import processors

    made = tokenizer(padding_side="left")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def build(family: str, spread: float = 0.3, **options):
    """A random model of a family, with weights large enough that a fault is no rounding error."""
    own = dict(OWN.get(family, {}))
    sizes = {} if own.pop("-", None) else SMALL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = tf.AutoConfig.for_model(family, **IDS | sizes | own | options)
        model = tf.AutoModel.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "norm" not in name.lower():
                    weight.normal_(std=spread)
    return model


def states(model, ids, mask=None, types=None):  # (L + 1, B, T, D)
    """As plain transformers gives them."""
    given = {} if types is None else {"token_type_ids": types}
    with torch.no_grad():
        out = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            output_hidden_states=True,
            **given,
        )
    return torch.stack(out.hidden_states)


def change(a, b) -> float:  # (L + 1, T, D) each
    return float(((a - b).norm(dim=-1) / a.norm(dim=-1).mean(-1, keepdim=True)).max())
