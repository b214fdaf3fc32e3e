"""Sentence embeddings: each row has its vector in any batch, part and file, equal to sentence-transformers's."""

import gzip
import json

import h5py
import numpy as np
import pandas as pd
import pytest

from bertvision.cli import main
from bertvision.core.errors import DataError
from bertvision.models.encoders import load_encoder
from bertvision.states import embed

TEXTS = [" ".join(f"{'abcdefghij'[(i + j) % 10]}" for j in range(1 + 7 * i % 40)) for i in range(23)]


@pytest.fixture(scope="module")
def tiny():
    return load_encoder("tiny-random")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


@pytest.mark.parametrize("pool, layer", [("mean", -1), ("mean", 0), ("cls", 1), ("mix", -1)])
def test_neither_batch_nor_padding_changes_a_vector(tiny, pool, layer):
    together = embed.embed_texts(TEXTS, tiny, pool=pool, layer=layer, max_length=64)
    alone = np.concatenate([embed.embed_texts([t], tiny, pool=pool, layer=layer, max_length=64) for t in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    for batch_size in (1, 3, 1000):
        np.testing.assert_allclose(
            embed.embed_texts(TEXTS, tiny, pool=pool, layer=layer, max_length=64, batch_size=batch_size),
            together,
            atol=1e-5,
        )
    assert np.ptp(together, axis=0).max() > 0.01 or (pool, layer) == ("cls", 0), "all texts have one vector"


@pytest.mark.parametrize("ending", ["parquet", "h5"])
def test_a_file_is_worked_on_in_parts_and_keeps_its_order(tiny, file, tmp_path, ending, monkeypatch):
    sizes, real = [], embed._stream
    monkeypatch.setattr(embed, "PART", 5)
    monkeypatch.setattr(
        embed, "_stream", lambda encoder, texts, *rest: sizes.append(len(texts)) or real(encoder, texts, *rest)
    )
    about = embed.embed_file(file, tiny, tmp_path / f"v.{ending}", max_length=20)
    assert sizes == [5, 5, 5, 5, 3] and about["texts"] == 23
    assert about["cut"] == sum(len(t.split()) > 18 for t in TEXTS) > 0
    vectors, said = embed.read_vectors(tmp_path / f"v.{ending}")
    np.testing.assert_allclose(vectors, embed.embed_texts(TEXTS, tiny, max_length=20), atol=1e-5)
    assert said == about | ({"revision": ""} if ending == "h5" else {}) and said["fingerprint"] == tiny.fingerprint


def test_other_readers_understand_the_files(tiny, file, tmp_path):
    for name in ("v.parquet", "v.h5"):
        embed.embed_file(file, tiny, tmp_path / name)
    table = pd.read_parquet(tmp_path / "v.parquet")
    with h5py.File(tmp_path / "v.h5") as f:
        vectors = f["vectors"][:]
    assert table["row"].tolist() == list(range(23)) and vectors.dtype == np.float32 and vectors.shape == (23, 64)
    np.testing.assert_array_equal(np.stack(table["vector"]), vectors)


def test_all_kinds_of_files_give_the_same_vectors(tiny, tmp_path):
    texts = ['He said "no", twice', "a, b and c", "last"]
    quoted = [t.replace('"', '""') for t in texts]
    written = {
        "a.txt": "\n".join(texts),
        "a.tsv": "n\ttext\n" + "\n".join(f"{i}\t{t}" for i, t in enumerate(texts)),
        "a.csv": "text,n\n" + "\n".join(f'"{t}",1' for t in quoted),
        "a.jsonl": "\n".join(json.dumps({"n": 1, "text": t}) for t in texts),
    }
    for name, content in written.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        embed.embed_file(tmp_path / f"{name}.gz", tiny, tmp_path / f"{name}.h5")
        np.testing.assert_allclose(
            embed.read_vectors(tmp_path / f"{name}.h5")[0], embed.embed_texts(texts, tiny), atol=1e-6
        )


@pytest.mark.parametrize("line, text", [(3, ""), (3, "   ")])
def test_an_empty_line_is_told_before_anything_is_encoded(tmp_path, monkeypatch, line, text):
    monkeypatch.setattr(embed, "load_encoder", lambda name: pytest.fail("loaded"))
    (tmp_path / "a.txt").write_text(f"one\ntwo\n{text}\nfour\n")
    with pytest.raises(DataError, match=f"a.txt:{line}: text: the text is empty"):
        embed.embed_file(tmp_path / "a.txt", "tiny-random", tmp_path / "v.h5")
    assert not (tmp_path / "v.h5").exists()


def test_a_failure_leaves_the_old_file(tiny, file, tmp_path, monkeypatch):
    embed.embed_file(file, tiny, tmp_path / "v.parquet")
    before = (tmp_path / "v.parquet").read_bytes()
    monkeypatch.setattr(embed, "PART", 5)
    real, calls = embed._vectors, []

    def fail(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(embed, "_vectors", fail)
    with pytest.raises(KeyboardInterrupt):
        embed.embed_file(file, tiny, tmp_path / "v.parquet")
    assert (tmp_path / "v.parquet").read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_the_command(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "texts.txt", "--encoder", "tiny-random", "--pool", "mix", "--max-length", "12"]) == 0
    out, err = capsys.readouterr()
    assert (
        out.startswith("texts.parquet: 23 vectors of 64 numbers, pool mix, layer all of tiny-random")
        and "cut; --max-length" in err
    )
    assert main(["embed", "texts.txt", "--encoder", "tiny-random", "--layer", "7"]) == 2
    assert "layer = 7: expected one of [0, 1, 2]" in capsys.readouterr().err
    assert main(["embed", "texts.txt", "--encoder", "tiny-random", "--column", "title"]) == 2
    assert "no column 'title'" in capsys.readouterr().err


def test_minilm_gives_what_sentence_transformers_gives():
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from bertvision.models.encoders import locate

    texts = [
        "A cat is asleep on the sofa.",
        "Shares fell.",
        "The kitten, which nobody had fed that day, naps on a couch; it dreams.",
    ]
    theirs = sentence_transformers.SentenceTransformer(locate("minilm-l6")[0], device="cpu").encode(texts)
    ours = embed.embed_texts(texts, "minilm-l6")
    np.testing.assert_allclose(
        ours / np.linalg.norm(ours, axis=1, keepdims=True),
        theirs / np.linalg.norm(theirs, axis=1, keepdims=True),
        atol=1e-5,
    )
