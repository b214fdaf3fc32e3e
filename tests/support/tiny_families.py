"""Small random encoders of every family that the installed transformers can build, without a tokenizer."""

import torch
import transformers as tf

WIDTH, BLOCKS, VOCABULARY = 32, 3, 60
COMMON = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=BLOCKS,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=100,
    pad_token_id=0,
    bos_token_id=2,
    cls_token_id=2,
    eos_token_id=3,
    sep_token_id=3,
)
XLM = dict(emb_dim=WIDTH, n_layers=BLOCKS, n_heads=4, max_position_embeddings=100, vocab_size=VOCABULARY)
GATED = dict(num_key_value_heads=2, head_dim=8)
OWN = {
    "albert": dict(embedding_size=16),
    "albert groups": dict(embedding_size=16, num_hidden_layers=4, num_hidden_groups=2),
    "albert inner": dict(embedding_size=16, inner_group_num=2),
    "bert": {},
    "big_bird": dict(attention_type="original_full"),
    "big_bird sparse": dict(attention_type="block_sparse", block_size=4, num_random_blocks=1),
    "camembert": {},
    "canine": dict(
        vocab_size=None,
        downsampling_rate=4,
        local_transformer_stride=16,
        num_hash_buckets=64,
        max_position_embeddings=128,
    ),
    "convbert": dict(embedding_size=16),
    "data2vec-text": {},
    "deberta": dict(relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": dict(relative_attention=True, pos_att_type=["c2p", "p2c"], conv_kernel_size=3),
    "deberta-v2 shared": dict(
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "distilbert": dict(dim=WIDTH, n_layers=BLOCKS, n_heads=4, hidden_dim=48),
    "distilbert sinus": dict(dim=WIDTH, n_layers=BLOCKS, n_heads=4, hidden_dim=48, sinusoidal_pos_embds=True),
    "electra": dict(embedding_size=16),
    "ernie": {},
    "ernie task": dict(use_task_id=True),
    "esm": dict(position_embedding_type="absolute", mask_token_id=4),
    "esm rotary": dict(position_embedding_type="rotary", mask_token_id=4),
    "esmc": dict(head_dim=8, num_key_value_heads=4),
    "eurobert": GATED,
    "flaubert": XLM,
    "fnet": {},
    "funnel": dict(num_hidden_layers=None, block_sizes=[1, 1, 1], d_model=WIDTH, n_head=4, d_head=8, d_inner=48),
    "gte": {},
    "ibert": {},
    "ibert quant": dict(quant_mode=True),
    "jina_embeddings_v3": {},
    "layoutlm": {},
    "lilt": dict(hidden_size=48, channel_shrink_ratio=4, max_2d_position_embeddings=64),
    "longformer": dict(attention_window=8),
    "luke": dict(entity_vocab_size=20, entity_emb_size=16),
    "markuplm": {},
    "megatron-bert": {},
    "mobilebert": dict(embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2),
    "modernbert": dict(global_attn_every_n_layers=2, local_attention=8),
    "mpnet": {},
    "mra": dict(block_per_row=1),
    "nomic_bert": {},
    "nystromformer": dict(num_landmarks=64, segment_means_seq_len=64),
    "nystromformer landmarks": dict(num_landmarks=4, segment_means_seq_len=64),
    "reformer": dict(
        attention_head_size=8,
        axial_pos_shape=[8, 16],
        axial_pos_embds_dim=[8, 24],
        feed_forward_size=48,
        attn_layers=["local", "lsh", "local"],
        is_decoder=False,
        max_position_embeddings=128,
        num_buckets=4,
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
    ),
    "rembert": dict(input_embedding_size=16, output_embedding_size=16),
    "roberta": {},
    "roberta-prelayernorm": {},
    "roc_bert": dict(shape_vocab_size=20, pronunciation_vocab_size=20, shape_embed_dim=8, pronunciation_embed_dim=8),
    "roformer": dict(embedding_size=16),
    "squeezebert": dict(embedding_size=WIDTH),
    "squeezebert dense": dict(
        embedding_size=WIDTH,
        **{f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")},
    ),
    "tapas": {},
    "ultrabert": GATED,
    "xlm": XLM,
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xlnet": dict(max_position_embeddings=None, d_model=WIDTH, n_layer=BLOCKS, n_head=4, d_inner=48),
    "xmod": dict(default_language="en_XX", languages=("en_XX",)),
    "yoso": dict(use_expectation=True),
}


def configuration(name):
    """The configuration of a small encoder: `family` or `family variant`."""
    family = name.split(" ")[0]
    values = COMMON | OWN[name]
    return tf.AutoConfig.for_model(family, **{k: v for k, v in values.items() if v is not None})


def build(name, head=False):
    """A random encoder in evaluation mode, with a classification head for three labels if asked for."""
    config = configuration(name)
    config.num_labels = 3
    auto = tf.AutoModelForSequenceClassification if head else tf.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config, attn_implementation="eager").eval()
