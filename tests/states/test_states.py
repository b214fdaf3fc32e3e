"""Stored and streamed states: what only processes, killed runs, full disks and broken files can show."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from made_up_states import made_up, write

from bertvision.core.errors import DataError, OutputError, TrainingError
from bertvision.data.batches import tokenise
from bertvision.states.interface import DTYPES, forecast_bytes, weights_fingerprint
from bertvision.states.padded import PARTS, read_original, write_original
from bertvision.states.store import Writer, open_states
from bertvision.states.stream import Stream, extract, ordered_batches, state_batches


@pytest.fixture(scope="module")
def encoder():
    from bertvision import load_encoder

    return load_encoder("tiny-random")


@pytest.fixture(scope="module")
def tokens(encoder):
    from bertvision import load_task, subset

    return tokenise(subset(load_task("toy-entailment")["train"], 150, seed=0), encoder.tokenizer, cached=False)


@pytest.fixture
def stored(encoder, tokens, tmp_path):
    options = dict(dtype="fp32", precision="fp32", chunk=64, task="toy-entailment", split="train")
    return extract(encoder, tokens, tmp_path / "train.h5", **options)


# --- the same states, stored and streamed


@pytest.mark.parametrize("kind", ["tokens", "cls", "mean"])
def test_stored_equals_streamed_in_the_same_order(encoder, tokens, tmp_path, kind):
    stored = extract(encoder, tokens, tmp_path / "s.h5", kind=kind, dtype="fp32", precision="fp32", chunk=64)
    stream = Stream(encoder, tokens, kind, precision="fp32")
    pairs = list(zip(state_batches(stored, 8, seed=1, epoch=1), state_batches(stream, 8, seed=1, epoch=1), strict=True))
    pairs += zip(ordered_batches(stored, 512), ordered_batches(stream, 512), strict=True)
    for (rows, kept), (same, live) in pairs:
        assert np.array_equal(rows, same) and torch.equal(kept.lengths, live.lengths)
        assert torch.allclose(kept.values, live.values, atol=1e-5)
    assert stored.fingerprint == stream.fingerprint and np.array_equal(stored.lengths, stream.lengths)


def test_a_head_on_the_encoder_changes_nothing(encoder, tokens):
    from bertvision import load_encoder, load_task

    headed = load_encoder("tiny-random", load_task("toy-entailment").task)
    assert weights_fingerprint(headed.model) == weights_fingerprint(encoder.model)
    rows = np.arange(5)
    a, b = (Stream(e, tokens, precision="fp32").batch(rows).values for e in (headed, encoder))
    assert torch.equal(a, b)


def test_row_i_is_example_i(encoder, stored, tokens):
    for i in (0, 77, 149):
        place = slice(tokens.offsets[i], tokens.offsets[i + 1])
        ids, types = (torch.tensor(x[place].astype(np.int64))[None] for x in (tokens.input_ids, tokens.types))
        with torch.no_grad():
            out = encoder.model.eval()(input_ids=ids, token_type_ids=types, output_hidden_states=True)
        assert np.allclose(stored[i], torch.cat(out.hidden_states).transpose(0, 1).numpy(), atol=1e-5)


def test_the_encoder_keeps_its_mode(encoder, tokens):
    encoder.model.train()
    first, again = (Stream(encoder, tokens, precision="fp32").batch([0]).values for _ in range(2))
    assert encoder.model.training and torch.equal(first, again)  # no dropout
    encoder.model.eval()


# --- killed and resumed

CODE = """
import os, signal, sys
from bertvision import load_encoder, load_task, subset
from bertvision.data.batches import tokenise
from bertvision.states.stream import extract

encoder, kill_at = load_encoder("tiny-random"), int(sys.argv[2])
tokens = tokenise(subset(load_task("toy-entailment")["train"], 150, seed=0), encoder.tokenizer, cached=False)


def on_step(done, total):
    print(done, flush=True)
    if done >= kill_at > 0: os.kill(os.getpid(), signal.SIGKILL)


extract(encoder, tokens, sys.argv[1], chunk=10, on_step=on_step, flush_seconds=0.0)
"""


def run(path, kill_at):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(kill_at)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr
    return [int(line) for line in done.stdout.split()]


def test_killed_and_resumed_file_equals_an_undisturbed_one(encoder, tokens, tmp_path):
    whole, part = tmp_path / "whole.h5", tmp_path / "part.h5"
    extract(encoder, tokens, whole, chunk=10, flush_seconds=0.0)
    run(part, 60)
    with pytest.raises(
        DataError, match=r"part.h5 is incomplete: \d+ of 150 rows are written; running the extraction again"
    ):
        open_states(part)
    run(part, 100)
    rest = run(part, 0)
    assert 60 < rest[0] <= 110 and rest[-1] == 150  # it went on, and not from the beginning
    assert open_states(whole).mapped().tobytes() == open_states(part).mapped().tobytes()


def test_never_claims_what_is_not_there(tmp_path, monkeypatch):
    """When the values cannot be made safe, the file does not say that they are."""
    tokens, origin, values = made_up()
    ends = np.cumsum(tokens.lengths)

    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    with Writer(tmp_path / "s.h5", tokens, origin) as writer:
        writer.append(range(10), values[: ends[9]])
    with monkeypatch.context() as m, pytest.raises(OutputError, match="Input/output error"):
        m.setattr(os, "fdatasync", fails)
        with Writer(tmp_path / "s.h5", tokens, origin) as writer:
            writer.append(range(10, 40), values[ends[9] :])
    with Writer(tmp_path / "s.h5", tokens, origin) as writer:
        assert writer.written == 10


def test_two_writers_do_not_meet(tmp_path):
    tokens, origin, values = made_up()
    code = "import sys; from bertvision.states.store import open_states; open_states(sys.argv[1])"
    with Writer(tmp_path / "s.h5", tokens, origin):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "s.h5"], capture_output=True, text=True)
    assert "is being written by another process" in done.stderr


# --- what opening refuses


@pytest.mark.parametrize(
    "wanted, message",
    [
        (dict(task="toy-sentiment"), "task 'toy-entailment', expected 'toy-sentiment'"),
        (dict(split="test"), "split 'train', expected 'test'"),
        (dict(kind="cls"), "kind 'tokens', expected 'cls'"),
    ],
)
def test_other_task_split_and_kind(stored, wanted, message):
    with pytest.raises(DataError, match=message) as e:
        open_states(stored.path, **wanted)
    assert str(stored.path) in str(e.value)


def test_other_encoder_and_tokenizer(stored, encoder, tokens):
    from bertvision import load_encoder
    from bertvision.models.encoders import build_random

    assert len(open_states(stored.path, encoder=encoder, tokens=tokens)) == 150
    trained = load_encoder("tiny-random")
    with torch.no_grad():
        trained.model.encoder.layer[0].attention.self.query.weight[0, 0] += 1e-3
    with pytest.raises(DataError, match="weights '[0-9a-f]{16}' of encoder 'tiny-random', expected .* trained since"):
        open_states(stored.path, encoder=trained)
    with pytest.raises(DataError, match="trained since"):
        extract(trained, tokens, stored.path, dtype="fp32", task="toy-entailment", split="train")
    folder = build_random(stored.path.parent / "other", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"])
    words = replace(encoder, tokenizer=load_encoder(str(folder)).tokenizer)
    with pytest.raises(DataError, match="the tokenizer"):
        open_states(stored.path, encoder=words)


def test_other_rows_name_the_first_that_differs(stored, tokens):
    ids = tokens.input_ids.copy()
    ids[tokens.offsets[70] + 1] += 1
    with pytest.raises(DataError, match="row 70 is example .*; 1 of 150 rows"):
        open_states(stored.path, tokens=replace(tokens, input_ids=ids))
    types = tokens.types.copy()
    types[tokens.offsets[71]] ^= 1
    with pytest.raises(DataError, match="row 71"):
        open_states(stored.path, tokens=replace(tokens, types=types))
    swapped = list(tokens.example_ids)
    swapped[3], swapped[4] = swapped[4], swapped[3]
    with pytest.raises(DataError, match="row 3 is example .*; 2 of 150 rows"):
        open_states(stored.path, tokens=replace(tokens, example_ids=swapped))
    labels = tokens.labels.copy()
    labels[9] += 1
    with pytest.raises(DataError, match="row 9 has label"):
        open_states(stored.path, tokens=replace(tokens, labels=labels))


def test_broken_files(stored):
    raw, path = stored.path.read_bytes(), stored.path.parent / "broken.h5"

    def refused(match):
        with pytest.raises(DataError, match=match) as e:
            open_states(path)
        assert str(path) in str(e.value)

    refused("does not exist")
    for size in (len(raw) - 1, len(raw) // 2, 3000):
        path.write_bytes(raw[:size])
        refused("cut off")
    path.write_bytes(b"")
    refused("not an HDF5 file")
    path.write_bytes(b"\x00" * 10_000)
    refused("not an HDF5 file")
    with h5py.File(path, "w") as f:
        f["states"] = np.zeros(3)
    refused("without the attribute `schema`")
    path.write_bytes(raw)
    with h5py.File(path, "r+") as f:
        f.attrs["schema"] = 2
    refused("schema 2, expected 1")
    path.write_bytes(raw)
    with h5py.File(path, "r+") as f:
        del f["row_hash"]
    refused("damaged: .*row_hash")
    path.write_bytes(raw)
    with h5py.File(path, "r+") as f:
        del f["states"]
        f["states"] = np.zeros((4, 3, 64), np.float32)
    refused(r"/states has shape \(4, 3, 64\), expected")
    path.write_bytes(raw)
    with h5py.File(path, "r+") as f:
        values = f["states"][:]
        del f["states"]
        f.create_dataset("states", data=values, chunks=(1, 3, 64))
    refused("chunked")


def test_opening_does_not_read_the_states(stored, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the values were mapped")

    monkeypatch.setattr(np, "memmap", forbidden)
    assert len(open_states(stored.path)) == 150


# --- full disk

Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_refused_before_writing(tmp_path, monkeypatch):
    tokens, origin, _ = made_up(width=512)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12 - 10**5, 10**5))
    with pytest.raises(OutputError, match=r"needs 0.000\d+ GB and its disk has 0.0001 GB free"):
        Writer(tmp_path / "s.h5", tokens, origin)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate")
def test_a_disk_that_fills_up_meanwhile_is_an_error_at_the_start(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    tokens, origin, _ = made_up()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="s.h5 cannot be written: No space left on device"):
        Writer(tmp_path / "s.h5", tokens, origin)
    assert not list(tmp_path.iterdir())


def test_blocks_are_reserved(tmp_path):
    tokens, origin, _ = made_up(examples=200, width=256)
    Writer(tmp_path / "s.h5", tokens, origin).close()
    assert (tmp_path / "s.h5").stat().st_blocks * 512 >= forecast_bytes(tokens, 3, 256)["states"]


# --- values


def test_nan_stops_the_extraction_and_the_file_can_be_finished(tokens, tmp_path):
    """The word embedding of one piece is NaN: the rows before its first appearance stay."""
    from bertvision import load_encoder

    encoder = load_encoder("tiny-random")
    pieces, first = np.unique(tokens.input_ids, return_index=True)
    piece, row = pieces[first.argmax()], int(np.searchsorted(tokens.offsets, first.max(), side="right")) - 1
    assert row > 20
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight[piece] = torch.nan
    with pytest.raises(TrainingError, match=f"'{tokens.example_ids[row]}' at layer 0 are nan"):
        extract(encoder, tokens, tmp_path / "s.h5", chunk=10)
    with pytest.raises(DataError, match=f"incomplete: {row // 10 * 10} of 150"):
        open_states(tmp_path / "s.h5")


def test_what_float16_cannot_hold(tmp_path):
    tokens, origin, values = made_up()
    values[tokens.offsets[7], 1, 0] = 1e5
    with pytest.raises(TrainingError, match="'train/7' at layer 1 reach 1e[+]05, more than fp16 can hold"):
        write(tmp_path / "s.h5", tokens, origin, values)
    assert write(tmp_path / "wide.h5", tokens, replace(origin, dtype="fp32"), values).batch([7]).values[0, 1, 0] == 1e5


def test_int8_is_half_of_fp16_and_off_by_half_a_step(tmp_path):
    tokens, origin, values = made_up(width=384)
    values *= torch.logspace(-6, 3, len(values))[:, None, None]  # nine orders of magnitude
    half = write(tmp_path / "fp16.h5", tokens, origin, values.clamp(-6e4, 6e4))
    small = write(tmp_path / "int8.h5", tokens, replace(origin, dtype="int8"), values)
    nbytes = {s.origin.dtype: sum(p.nbytes for p in s.places.values()) for s in (half, small)}
    assert nbytes["fp16"] / 2 < nbytes["int8"] <= nbytes["fp16"] / 2 * 1.02
    steps = torch.from_numpy(small.mapped("scales").astype(np.float32))[..., None]
    assert ((small.batch(range(40)).values - values).abs() <= steps / 2 * 1.0001).all()
    largest = values.abs().amax(-1, keepdim=True)
    assert (steps <= largest / 127 * 1.001 + 6e-8).all()


def test_fp16_file_is_its_real_tokens_and_one_percent(tmp_path):
    tokens, origin, values = made_up(examples=300, width=384, layers=7, longest=24)
    stored = write(tmp_path / "s.h5", tokens, origin, values)
    real = len(tokens.input_ids) * 7 * 384 * 2
    assert real < stored.nbytes <= real * 1.01
    assert stored.nbytes <= forecast_bytes(tokens, 7, 384)["total"] <= stored.nbytes + 2**16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["tokens", "mean"])
def test_batches_equal_the_naive_loop(tmp_path, kind, dtype):
    tokens, origin, values = made_up(kind=kind, dtype=dtype)
    stored, rng = write(tmp_path / "s.h5", tokens, origin, values), np.random.default_rng(1)
    ends = np.cumsum(stored.lengths)
    whole = stored.batch(range(40)).values
    for rows in ([0], [39], [5, 5, 4, 4], np.arange(40), rng.permutation(40), np.array([3, 4, 5, 30, 31, 2])):
        batch = stored.batch(rows)
        naive = torch.cat([whole[ends[i] - stored.lengths[i] : ends[i]] for i in rows])
        assert torch.equal(batch.values, naive) and batch.values.dtype == torch.float32
        assert torch.equal(stored.batch(rows, dtype=torch.bfloat16).values, naive.bfloat16())


# --- several processes


class Plan(torch.utils.data.Dataset):
    """A batch an item, as a loader's workers see it."""

    def __init__(self, states, plan):
        self.states, self.plan = states, plan

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, i):
        return self.states.batch(self.plan[i]).values


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_file(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    tokens, origin, values = made_up(dtype="fp32")
    stored = write(tmp_path / "s.h5", tokens, origin, values)
    plan = np.random.default_rng(0).permutation(40).reshape(8, 5)
    expected = [stored.batch(rows).values for rows in plan]  # the map is open here when the workers start
    loader = torch.utils.data.DataLoader(
        Plan(stored, plan), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    for got, wanted in zip(loader, expected, strict=True):
        assert torch.equal(got, wanted)


# --- the original's layout


def test_original_layout_round_trip(stored, tokens, tmp_path):
    T = int(tokens.lengths.max()) + 2
    write_original(stored, tmp_path, "train", T)
    with h5py.File(tmp_path / "train_embeds.h5") as f:
        assert f["embeds"].shape == (150, 3, T, 64) and f["embeds"].maxshape == (None, 3, T, 64)
        assert f["embeds"].dtype == np.float32
        assert f["embeds"].attrs["last_index"] == 150
    original, rows = read_original(tmp_path, "train"), np.array([3, 149, 0])
    assert torch.equal(original.batch(rows).values, stored.batch(rows).padded(T).flatten(0, 1))
    assert (
        (original.lengths == T).all()
        and np.array_equal(original.labels, stored.labels)
        and original.layers == stored.layers
    )
    for rows, batch in state_batches(original, 16):
        assert len(batch) == len(rows)


def test_original_layout_refuses_what_does_not_fit(stored, tmp_path):
    write_original(stored, tmp_path, "train", 64)

    def refused(match):
        with pytest.raises(DataError, match=match):
            read_original(tmp_path, "train")

    with h5py.File(tmp_path / "train_embeds.h5", "r+") as f:
        f["embeds"].attrs["last_index"] = 20
    refused("incomplete: last_index is 20 of 150")
    with h5py.File(tmp_path / "train_embeds.h5", "r+") as f:
        f["embeds"].attrs["last_index"] = 150
    with h5py.File(tmp_path / "train_idx.h5", "r+") as f:
        f["idx"][1] = 0
    refused("holds example 0 2 times")
    for key in PARTS:
        (tmp_path / f"train{PARTS[key]}").rename(tmp_path / "away")
        refused(f"train_{key}.h5 does not exist")
        (tmp_path / "away").rename(tmp_path / f"train{PARTS[key]}")
    (tmp_path / "train_idx.h5").write_text("0 1 2")
    refused("train_idx.h5 is not a readable HDF5 file")
