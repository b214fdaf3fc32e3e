"""Which families there are, and that a tiny one is what its configuration says."""

import numpy as np
import pytest
import torch
import transformers as tf
from family_folders import family_folder, masked_families, rotating_sample
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from bertvision.conformance.families import EXCEPTIONS, KINDS, TOKENIZERS, VARIANTS, find_family, measured_kind


def test_tables_name_only_families_of_this_transformers_version():
    named = [*EXCEPTIONS, *TOKENIZERS, *(name.split("/")[0] for name in VARIANTS)]
    assert not [name for name in named if name not in MODEL_MAPPING_NAMES]
    assert all(reason for _, reason in EXCEPTIONS.values()) and all(reason for *_, reason in TOKENIZERS.values())


def test_kinds_are_found_without_a_list_of_names():
    expected = {
        "encoder": "bert xlnet longformer eurobert esm funnel",
        "decoder": "gpt2 llama mamba",
        "encoder-decoder": "t5 bart",
        "other input": "vit wav2vec2",
        "several inputs": "clip llava",
    }
    found = {name: find_family(name).kind for names in expected.values() for name in names.split()}
    assert found == {name: kind for kind, names in expected.items() for name in names.split()}
    assert set(found.values()) <= set(KINDS)


def test_a_sample_reaches_every_family_in_turn():
    names = set(masked_families()) - {"bert"}
    assert len(names) > 40
    turns = [rotating_sample(4, turn) for turn in range(3)]
    assert all(len(turn) == 5 and turn[0] == "bert" for turn in turns) and turns[0] != turns[1]


@pytest.mark.parametrize("name", ["roberta", "deberta", "xlm"])
def test_special_tokens_stand_where_the_configuration_says(name):
    folder = family_folder(name)
    config, tokenizer = tf.AutoConfig.from_pretrained(folder), tf.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == config.pad_token_id
    assert len(tokenizer) <= config.vocab_size
    special = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id]
    assert len(set(special)) == 4 and max(special) < 16


def test_every_block_changes_its_input():
    """Weights as small as the usual initialisation would hide every fault below the tolerance."""
    model = tf.AutoModel.from_pretrained(family_folder("bert")).eval()
    with torch.no_grad():
        states = model(input_ids=torch.arange(20, 32)[None], output_hidden_states=True).hidden_states
    changes = [float((b - a).norm() / a.norm()) for a, b in zip(states, states[1:])]
    assert np.min(changes) > 0.2


def test_an_encoder_that_became_a_decoder_is_found_by_running_it(tmp_path):
    config = tf.AutoConfig.from_pretrained(family_folder("bert"), is_decoder=True)
    tf.BertModel(config).save_pretrained(tmp_path)
    tf.AutoTokenizer.from_pretrained(family_folder("bert")).save_pretrained(tmp_path)
    assert measured_kind(tmp_path)[0] == "decoder"
