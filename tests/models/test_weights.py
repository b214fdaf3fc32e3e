"""Weights fit their encoder or are refused: names, shapes, memory, tokenizers' files, and encoders of another kind."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import buildable_families
import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from bertvision.core.errors import DataError, EncoderError
from bertvision.data.tasks import get_task
from bertvision.models.attention import swap_attention
from bertvision.models.encoders import encoder_fingerprint, load_encoder
from bertvision.models.swaps import SWAPS
from bertvision.models.weights import own_memory, unused

SAMPLE = ("bert", "albert", "deberta-v2", "modernbert", "nomic_bert", "gte", "jina_embeddings_v3", "xlnet")
FAMILIES = [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.long) for name in buildable_families.names()]
WRAPPED = ("bert", "distilbert", "modernbert", "nomic_bert")
IDS = torch.tensor([[2, 7, 9, 5, 11, 3]])


@pytest.fixture(autouse=True)
def quiet():
    level = tf.logging.get_verbosity()
    tf.logging.set_verbosity(50)
    yield
    tf.logging.set_verbosity(level)


def rewrite(folder, change):
    """Change the weights of a checkpoint: name -> tensor in, the same out."""
    file = Path(folder) / "model.safetensors"
    values = {name: value.clone() for name, value in change(load_file(file)).items()}
    save_file(values, file, {"format": "pt"})


def configure(folder, **changes):
    """Change the configuration of a checkpoint."""
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def states(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state


def prefixed(prefix):
    return lambda values: {prefix + name: value for name, value in values.items()}


def same(one, other):
    """Equal but for rounding: the model that was built may use another implementation of attention."""
    return torch.allclose(one, other, atol=1e-5)


# -- names


@pytest.mark.parametrize("name", WRAPPED)
def test_prefixes_of_wrappers_are_removed_and_noted(tmp_path, name):
    right = buildable_families.save_tiny(name, tmp_path)
    expected = states(right)
    own = load_file(tmp_path / "model.safetensors")
    body = f"{right.base_model_prefix}."
    for wrapper in ("_orig_mod.", "module.", "model.", "_orig_mod.module.", "module.model."):
        for prefix in (wrapper, wrapper + body, body + wrapper):
            save_file(prefixed(prefix)(own), tmp_path / "model.safetensors", {"format": "pt"})
            encoder = load_encoder(str(tmp_path), attention="eager")
            assert same(states(encoder.model), expected), prefix
            if prefix != "model." or name not in ("modernbert",):  # there it is the body's own
                assert any(wrapper in note for note in encoder.notes), (prefix, encoder.notes)
    for prefix in ("", body):  # either way the body's own prefix is none of a wrapper
        save_file(prefixed(prefix)(own), tmp_path / "model.safetensors", {"format": "pt"})
        encoder = load_encoder(str(tmp_path), attention="eager")
        assert same(states(encoder.model), expected)
        assert not any("prefix" in note for note in encoder.notes)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_head_is_the_checkpoints_own_and_a_new_one_depends_on_the_seed_alone(tmp_path, name):
    task = get_task("toy-entailment")
    head = tf.AutoModelForSequenceClassification
    labels = {i: label for i, label in enumerate(task.labels)}
    own = buildable_families.save_tiny(name, tmp_path / "own", head, num_labels=3, id2label=labels)
    bare = buildable_families.save_tiny(name, tmp_path / "bare")
    shutil.copytree(tmp_path / "bare", tmp_path / "wrapped")
    for folder in ("own", "wrapped"):
        rewrite(tmp_path / folder, prefixed("_orig_mod.module."))
    encoder = load_encoder(str(tmp_path / "own"), task, attention="eager")
    assert encoder.notes[0] == "the head is the checkpoint's own"
    with torch.no_grad():
        assert same(encoder.model.eval()(input_ids=IDS).logits, own(input_ids=IDS).logits)
    plain, wrapped = (
        load_encoder(str(tmp_path / folder), task, seed=5, attention="eager") for folder in ("bare", "wrapped")
    )
    assert plain.notes[0] == wrapped.notes[0] == "the head is new, initialised from the seed"
    for one, other in zip(plain.model.parameters(), wrapped.model.parameters()):
        assert one.equal(other)
    assert same(states(wrapped.model.base_model), states(bare))


def test_a_part_that_was_compiled(tmp_path):
    expected = states(buildable_families.save_tiny("bert", tmp_path))
    rewrite(tmp_path, lambda values: {n.replace("layer.0.", "layer.0._orig_mod."): v for n, v in values.items()})
    encoder = load_encoder(str(tmp_path), attention="eager")
    assert same(states(encoder.model), expected)
    assert encoder.notes == ["the prefix _orig_mod. was removed from the names of 16 weights"]


def without(*parts):
    return lambda values: {n: v for n, v in values.items() if not any(part in n for part in parts)}


FAULTS = {
    "unknown prefix": (
        prefixed("net.core."),
        {},
        r"39 of the body's 39 are missing .*None of its names fits .*net\.core",
    ),
    "more blocks": (
        dict,
        {"num_hidden_layers": 4},
        r"32 of the body's 71 are .*and 29 more.*4 blocks .* hold 2",
    ),
    "fewer blocks": (
        dict,
        {"num_hidden_layers": 1},
        r"16 have no place .*and 13 more.*1 blocks .* hold 2: correct",
    ),
    "a lost weight": (without("layer.1.output.dense.bias"), {}, r"1 of the body's 39 are missing \(encoder\.layer\.1"),
    "a lost embedding": (without("token_type"), {}, r"1 of the body's 39 are missing .*token_type_embeddings"),
    "an adapter": (
        lambda values: values | {"encoder.layer.0.adapter.weight": torch.ones(2, 2)},
        {},
        r"1 have no place in it \(encoder\.layer\.0\.adapter\.weight\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("task", [None, "toy-entailment", "toy-qa"])
def test_a_body_that_does_not_fit_is_refused(tmp_path, fault, task):
    change, config, message = FAULTS[fault]
    buildable_families.save_tiny("bert", tmp_path)
    rewrite(tmp_path, change)
    configure(tmp_path, **config)
    if task:  # the names begin with bert.
        message = message.replace("39 of the body's 39", r"\d+ of the body's \d+").replace(r"\(encoder", r"\(.*encoder")
        message = message.replace("body's 39", r"body's \d+").replace("body's 71", r"body's \d+")
    with pytest.raises(EncoderError, match=message):
        load_encoder(str(tmp_path), get_task(task) if task else None, new_head=task == "toy-entailment")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_weight_of_any_family_is_named_or_not_used(tmp_path, name):
    """Each weight in turn would take too long: each last weight of a module of the first and last block and around."""
    need_tiny(name)
    model = buildable_families.save_tiny(name, tmp_path)
    free = unused(model, model.state_dict())
    expected = states_or_skip(model)
    file = load_file(tmp_path / "model.safetensors")
    largest = max(file, key=lambda n: (".0." in n, file[n].numel()))
    rewrite(tmp_path, without(largest))
    try:
        encoder = load_encoder(str(tmp_path), attention="eager")
    except EncoderError as e:
        assert largest.split(".")[-1] in str(e) or "lack parts" in str(e)
    else:
        assert free, "a weight was drawn at random without a word"
        assert same(states(encoder.model), expected)


def need_tiny(name):
    if reason := buildable_families.reason_against(name):
        pytest.skip(reason)


def states_or_skip(model):
    try:
        return states(model)
    except Exception as e:
        pytest.skip(f"does not run on token ids alone: {e}")


# -- what may be new, and what is not read


def test_a_pooler_may_be_new_where_the_states_do_not_need_it(tmp_path):
    task = get_task("toy-entailment")
    expected = states(buildable_families.save_tiny("bert", tmp_path))
    rewrite(tmp_path, without("pooler"))
    encoder = load_encoder(str(tmp_path), attention="eager")
    assert same(states(encoder.model), expected)
    note = "new, since the checkpoint has none and the states do not use them: "
    assert encoder.notes == [note + "pooler.dense.bias, pooler.dense.weight"]
    encoder = load_encoder(str(tmp_path), task)
    assert encoder.notes[0] == "the head is new, initialised from the seed"
    assert encoder.notes[-1] == note + "bert.pooler.dense.bias, bert.pooler.dense.weight"


def test_a_trained_head_needs_its_pooler(tmp_path):
    task = get_task("toy-entailment")
    labels = dict(enumerate(task.labels))
    buildable_families.save_tiny("bert", tmp_path, tf.AutoModelForSequenceClassification, num_labels=3, id2label=labels)
    assert load_encoder(str(tmp_path), task).notes == ["the head is the checkpoint's own"]
    rewrite(tmp_path, without("pooler"))
    with pytest.raises(EncoderError, match=r"2 of the body's 39 are missing \(bert\.pooler"):
        load_encoder(str(tmp_path), task)
    assert "the head is new" in load_encoder(str(tmp_path), task, new_head=True).notes[0]


def test_weights_of_switched_off_parts_and_known_left_overs_are_no_error(tmp_path):
    buildable_families.save_tiny("roberta", tmp_path / "roberta")
    encoder = load_encoder(str(tmp_path / "roberta"), get_task("toy-entailment"))
    assert encoder.notes == ["the head is new, initialised from the seed"] + [
        "not read, since config.json or the head has no such part: pooler.dense.bias, pooler.dense.weight"
    ]
    folder = tmp_path / "deberta"
    buildable_families.save_tiny("deberta-v2", folder, position_biased_input=False)
    extra = ("position_embeddings.weight", "word_embeddings._weight")
    extra = {f"deberta.embeddings.{name}": torch.ones(64, 32) for name in extra}
    rewrite(folder, lambda values: prefixed("deberta.")(values) | extra)
    assert not any("weight" in note or "part" in note for note in load_encoder(str(folder)).notes)


def test_other_heads_and_buffers_of_old_files_are_not_the_bodys(tmp_path):
    buildable_families.save_tiny("bert", tmp_path, tf.AutoModelForPreTraining)
    rewrite(tmp_path, lambda values: values | {"bert.embeddings.position_ids": torch.arange(64)[None]})
    assert load_encoder(str(tmp_path)).notes == []
    assert load_encoder(str(tmp_path), get_task("toy-entailment")).notes == [
        "the head is new, initialised from the seed"
    ]


# -- shapes


@pytest.mark.parametrize("task", [None, "toy-entailment"])
@pytest.mark.parametrize("new_head", [False, True])
def test_another_size_of_the_vocabulary(tmp_path, task, new_head):
    buildable_families.save_tiny("bert", tmp_path)
    configure(tmp_path, vocab_size=41)
    message = r"word_embeddings\.weight has shape \(40, 32\), expected \(41, 32\)\. In config\.json: vocab_size = 41\."
    with pytest.raises(EncoderError, match=message):
        load_encoder(str(tmp_path), get_task(task) if task else None, new_head=new_head)


@pytest.mark.parametrize("known", [True, False], ids=["the configuration names the head", "it does not"])
def test_a_head_for_other_labels(tmp_path, known):
    task = get_task("toy-entailment")
    buildable_families.save_tiny("bert", tmp_path, tf.AutoModelForSequenceClassification, num_labels=5)
    if not known:
        configure(tmp_path, architectures=None)
    message = "trained head for 5 labels" if known else r"another size: classifier\.\w+ has shape \(5.*expected \(3"
    with pytest.raises(EncoderError, match=rf"{message}.*load it with new_head=True"):
        load_encoder(str(tmp_path), task)
    fresh = load_encoder(str(tmp_path), task, new_head=True)
    assert fresh.model.classifier.weight.shape == (3, 32) and "the head is new" in fresh.notes[0]


def test_joined_weights_of_another_shape_have_no_message_about_a_hidden_report(tmp_path):
    buildable_families.save_tiny("nomic_bert", tmp_path)
    configure(tmp_path, hidden_size=16, num_attention_heads=1)
    with pytest.raises(EncoderError, match="shape") as error:
        load_encoder(str(tmp_path))
    assert "report" not in str(error.value)


@pytest.mark.parametrize("kind", SWAPS)
def test_a_replaced_attention_is_no_misfit(tmp_path, kind):
    encoder = swap_attention(load_encoder("tiny-random"), kind)
    encoder.save(tmp_path)
    again = load_encoder(str(tmp_path))
    assert again.notes == [] or "prefix" not in again.notes[0]
    own = encoder.model.state_dict()
    assert all(value.equal(own[name]) for name, value in again.model.state_dict().items())


# -- kinds of files


def in_parts(folder):
    """Split the weights of a checkpoint into two safetensors with an index."""
    values = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(values)
    where = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: values[name] for name in part}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_weights_in_parts(tmp_path):
    expected = states(buildable_families.save_tiny("bert", tmp_path / "plain"))
    shutil.copytree(tmp_path / "plain", tmp_path / "wrapped")
    shutil.copytree(tmp_path / "plain", tmp_path / "lost")
    rewrite(tmp_path / "wrapped", prefixed("_orig_mod."))
    rewrite(tmp_path / "lost", without("layer.1"))
    for folder in ("plain", "wrapped", "lost"):
        in_parts(tmp_path / folder)
    plain, wrapped = (load_encoder(str(tmp_path / folder), attention="eager") for folder in ("plain", "wrapped"))
    assert same(states(plain.model), expected) and same(states(wrapped.model), expected)
    assert not plain.notes and "_orig_mod." in wrapped.notes[0]
    with pytest.raises(EncoderError, match="16 of the body's 39 are missing.*2 blocks and the weights hold 1"):
        load_encoder(str(tmp_path / "lost"))


def test_a_part_that_is_missing(tmp_path):
    buildable_families.save_tiny("bert", tmp_path)
    in_parts(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_a_pickle_is_not_read(tmp_path, name):
    buildable_families.save_tiny("bert", tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / name)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=rf"{name} alone, a pickle.*expected model\.safetensors"):
        load_encoder(str(tmp_path))


# -- memory


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_loaded_is_saved_whole(tmp_path, name):
    need_tiny(name)
    right = buildable_families.save_tiny(name, tmp_path / "first")
    encoder = load_encoder(str(tmp_path / "first"), attention="eager")
    own = encoder.model.state_dict()
    assert own_memory(encoder.model) == 0
    assert set(own) == set(right.state_dict())
    assert all(value.equal(own[n]) for n, value in right.state_dict().items())
    save_file({n: v for n, v in own.items()}, tmp_path / "all.safetensors")  # refuses memory that two share
    encoder.save(tmp_path / "second")
    again = load_encoder(str(tmp_path / "second"), attention="eager")
    assert all(value.equal(own[n]) for n, value in again.model.state_dict().items())
    assert set(load_file(tmp_path / "second" / "model.safetensors")) == set(
        load_file(tmp_path / "first" / "model.safetensors")
    )


def test_tied_embeddings_stay_tied(tmp_path):
    from bertvision.pretraining.objective import load_pretraining

    buildable_families.save_tiny("bert", tmp_path, tf.AutoModelForMaskedLM)
    model = load_pretraining(str(tmp_path))[0].model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


# -- tokenizers


def test_a_kept_tokenizer_has_nothing_of_its_last_call(tmp_path):
    buildable_families.save_tiny("bert", tmp_path / "first")
    encoder = load_encoder(str(tmp_path / "first"))
    folders = [tmp_path / "quiet", tmp_path / "called"]
    encoder.save(folders[0])
    encoder.tokenizer(["a b c d e"], truncation=True, max_length=3, padding="max_length")
    encoder.save(folders[1])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert len({encoder_fingerprint(str(folder)) for folder in folders}) == 1


@pytest.mark.parametrize("padding", [True, "max_length"], ids=["longest", "fixed"])
def test_truncation_in_a_folder_is_ignored_and_changes_no_fingerprint(tmp_path, padding):
    from bertvision.core.hashing import file_fingerprint, fingerprint

    buildable_families.save_tiny("bert", tmp_path)
    before = encoder_fingerprint(str(tmp_path))
    files = sorted(p for p in tmp_path.iterdir())
    assert before == fingerprint([(p.name, file_fingerprint(p)) for p in files]), "fingerprints have changed"
    encoder = load_encoder(str(tmp_path))
    encoder.save(tmp_path / "clean")
    encoder.tokenizer(["a b c d e"], truncation=True, max_length=4, padding=padding)
    encoder.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    assert encoder_fingerprint(str(tmp_path)) == before
    read = load_encoder(str(tmp_path))
    assert len(read.tokenizer.backend_tokenizer.encode("a b c d e").ids) == 7
    assert len(read.tokenizer("a b c d e").input_ids) == 7
    read.save(tmp_path / "again")
    assert encoder_fingerprint(str(tmp_path / "again")) == encoder_fingerprint(str(tmp_path / "clean"))


# -- other kinds of models, and tokens that an encoder cannot read


OTHERS = {
    "t5": (lambda: tf.T5Config(), "decoder behind its encoder"),
    "bart": (lambda: tf.BartConfig(), "decoder behind its encoder"),
    "vit": (lambda: tf.ViTConfig(), "reads pixel_values"),
    "clip": (lambda: tf.CLIPConfig(), "vision_config"),
    "wav2vec2": (lambda: tf.Wav2Vec2Config(), "reads input_values"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("task", [None, "toy-entailment"])
def test_models_of_another_kind_are_refused_before_their_weights_are_read(tmp_path, name, task):
    config, reason = OTHERS[name]
    config().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=rf"is a {name} model, which .*{reason}.*expected an encoder of texts"):
        load_encoder(str(tmp_path), get_task(task) if task else None)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_encoder_of_texts_is_of_another_kind(name):
    from bertvision.models.weights import check_kind

    need_tiny(name)
    if name not in ("layoutlmv3",):
        check_kind(buildable_families.tiny_config(name), name)


def tokens(ids, types=None):
    return SimpleNamespace(input_ids=np.array(ids), types=types, lengths=np.array([len(ids)]))


def test_ids_that_an_encoder_lacks(tmp_path):
    buildable_families.save_tiny("bert", tmp_path / "two")
    buildable_families.save_tiny("roberta", tmp_path / "one", type_vocab_size=1)
    two, one = (load_encoder(str(tmp_path / folder)) for folder in ("two", "one"))
    two.check(tokens([5, 6], np.array([0, 1])))
    one.check(tokens([5, 6], np.array([0, 0])))
    one.check(tokens([5, 6]))
    with pytest.raises(DataError, match="word piece 40 is not among the 40"):
        two.check(tokens([5, 40]))
    with pytest.raises(DataError, match="word piece -1 is not among the 40"):
        two.check(tokens([5, -1]))
    with pytest.raises(DataError, match=r"segment id 1 .*token_type_ids.* among the 1 of"):
        one.check(tokens([5, 6], np.array([0, 1])))
    with pytest.raises(DataError, match="segment id 2 .* among the 2 of"):
        two.check(tokens([5, 6], np.array([0, 2])))


# -- file systems without locks


def test_encoders_load_where_files_cannot_be_locked(tmp_path, monkeypatch):
    import errno
    import fcntl

    def fails(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setattr(fcntl, "lockf", fails)
    monkeypatch.setenv("BERTVISION_CACHE", str(tmp_path / "cache"))
    encoder = load_encoder("tiny-random")
    encoder.save(tmp_path / "saved")
    assert load_encoder(str(tmp_path / "saved")).model.config.hidden_size == 64
