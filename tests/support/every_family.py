"""Every encoder family that this version of transformers can build, tiny and random."""

import torch
import transformers as tf
from transformers.models.auto import modeling_auto

# model types without a masked-language head that classify text, and are no decoders
MORE = ("bros", "canine", "layoutlm", "lilt", "markuplm", "splinter", "xlnet")

# under each family's own names; what a configuration has not is left out
SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    embedding_size=32,
    embedding_dim=32,
    d_model=32,
    dim=32,
    emb_dim=32,
    entity_emb_size=16,
    input_embedding_size=16,
    output_embedding_size=16,
    intermediate_size=64,
    true_hidden_size=16,
    intra_bottleneck_size=16,
    hidden_dim=64,
    d_inner=64,
    d_head=8,
    head_dim=8,
    feed_forward_size=64,
    attention_head_size=8,
    num_hidden_layers=2,
    n_layers=2,
    n_layer=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    n_heads=4,
    n_head=4,
    max_position_embeddings=96,
    max_2d_position_embeddings=128,
    max_depth=4,
    max_xpath_tag_unit_embeddings=218,
    xpath_unit_hidden_size=4,
    entity_vocab_size=8,
    num_hash_buckets=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    sep_token_id=2,
    cls_token_id=1,
    mask_token_id=3,
    pad_index=0,
    initializer_range=0.3,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    attention_window=8,
    block_size=4,
    num_random_blocks=1,
    cpu_vocab_size=64,
    n_langs=1,
)

# what a family cannot be built without, or how it differs within itself
CHANGES = {
    "ernie-task-ids": dict(use_task_id=True),
    "albert-groups": dict(num_hidden_groups=2),
    "distilbert-sinusoidal": dict(sinusoidal_pos_embds=True),
    "deberta": dict(relative_attention=False),
    "deberta-relative": dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False),
    "deberta-v2-relative": dict(
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "deberta-v2-biased": dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=True),
    "eurobert-grouped": dict(num_key_value_heads=2),
    "eurobert-single": dict(num_key_value_heads=1),
    "big_bird-full": dict(attention_type="original_full"),
    "esm-rotary": dict(position_embedding_type="rotary"),
    "xmod": dict(default_language="en_XX", languages=["en_XX", "de_DE"]),
    "funnel": dict(block_sizes=[1, 1], block_repeats=[1, 1], num_decoder_layers=1),
    "funnel-single": dict(block_sizes=[2], block_repeats=[1], num_decoder_layers=1),
    "lilt": dict(hidden_size=48, channel_shrink_ratio=4),
    "modernbert": dict(global_attn_every_n_layers=2, local_attention=8),
    "roc_bert": dict(pronunciation_vocab_size=32, shape_vocab_size=32, pronunciation_embed_dim=8, shape_embed_dim=8),
    "reformer": dict(
        axial_pos_shape=[8, 12],
        axial_pos_embds_dim=[16, 16],
        attn_layers=["local", "lsh"],
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
        is_decoder=False,
    ),
    "yoso": dict(use_expectation=True),
    "convbert": dict(conv_kernel_size=3, head_ratio=2),
    "canine": dict(local_transformer_stride=16, downsampling_rate=4),
    "ibert-quantised": dict(quant_mode=True),
    "mobilebert": dict(embedding_size=16, num_feedforward_networks=2),
    "nystromformer": dict(num_landmarks=64, segment_means_seq_len=64),
    "neomme": dict(head_dim=16, num_attention_heads=2, num_key_value_heads=2),
    "nystromformer-landmarks": dict(num_landmarks=4, segment_means_seq_len=64),
    "tapas": dict(type_vocab_sizes=[3, 16, 16, 2, 16, 16, 10]),
}
# sizes that a family derives from others and refuses to be told
FIXED = {"funnel": ("num_hidden_layers",), "xlnet": ("max_position_embeddings",)}
# reads no text: arrays of any kind, through a preprocessor
NO_TEXT = {"perceiver"}


def family_names() -> list:
    "Return the names of all configurations: model types, and their variants after a hyphen."
    types = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *MORE} - NO_TEXT
    return sorted(name for name in types | set(CHANGES) if _is_text_encoder(model_type(name)))


def model_type(name: str) -> str:
    "Return the model type of a configuration."
    types = modeling_auto.MODEL_MAPPING_NAMES
    return max((t for t in types if name == t or name.startswith(f"{t}-")), key=len)


def _is_text_encoder(kind: str) -> bool:
    config = tf.AutoConfig.for_model(kind)
    return not config.is_encoder_decoder and not getattr(config, "vision_config", None)


def tiny_config(name: str, **changes):
    "Return the configuration of a tiny encoder."
    kind = model_type(name)
    default = tf.AutoConfig.for_model(kind)
    sizes = {k: v for k, v in SIZES.items() if hasattr(default, k) and k not in FIXED.get(kind, ())}
    changes = {**CHANGES.get(name, CHANGES.get(kind, {})), **changes}
    return tf.AutoConfig.for_model(kind, **sizes | changes)


def tiny_model(name: str, auto=tf.AutoModel, seed: int = 0, **changes):
    "Build a tiny encoder with random weights, in evaluation mode."
    torch.manual_seed(seed)
    config = tiny_config(name, **changes)
    classes = modeling_auto.MODEL_MAPPING_NAMES[model_type(name)]
    config.architectures = [classes if isinstance(classes, str) else classes[0]]  # Funnel has two
    return auto.from_config(config, attn_implementation="eager").eval()


def tiny_ids(model, length: int = 16, texts: int = 2, seed: int = 1) -> torch.Tensor:  # (texts, length)
    "Draw word pieces without special ones."
    g = torch.Generator().manual_seed(seed)
    return torch.randint(5, 60, (texts, length), generator=g)
