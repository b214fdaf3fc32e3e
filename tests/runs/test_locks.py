"""A file system without locks is not a file in use, and a file in use is not a file system without locks."""

import errno
import fcntl
import os

import h5py
import numpy as np
import pytest
from made_up_states import made_up, write
from study_lab import FINISH, START, Lab

from bertvision.core.errors import DataError, OutputError
from bertvision.runs.locks import lock, locked
from bertvision.states.embed import read_vectors
from bertvision.states.padded import read_original, write_original
from bertvision.states.store import Writer, open_states

LACKING = [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS]
CURE = "is on a file system without locks .*: set HDF5_USE_FILE_LOCKING=FALSE in the environment and start again"


def refuse_locks(monkeypatch, number: int):
    """Let the system answer every request for a lock with an error."""

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)


def refuse_hdf5(monkeypatch, number: int):
    """Let HDF5 say what it says on a file system whose lock call fails with this error."""

    def fails(path, mode="r", **_):
        verb = "create" if mode == "w" else "open"
        reason = f"unable to lock file, errno = {number}, error message = '{os.strerror(number)}'"
        raise OSError(number, f"Unable to synchronously {verb} file ({reason})")

    monkeypatch.setattr(h5py, "File", fails)


@pytest.mark.parametrize("number", LACKING, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_worked_on_and_named(tmp_path, monkeypatch, capsys, number):
    from bertvision.runs.locks import has_locks

    assert has_locks(tmp_path)
    lab = Lab(tmp_path)
    lab.experiment(START, FINISH)
    refuse_locks(monkeypatch, number)
    assert not has_locks(tmp_path) and not locked(tmp_path / "lock")
    lock(tmp_path / "lock").close()
    assert lab.run(seeds=[0]).ok
    assert "note: this file system has no locks" in capsys.readouterr().out


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES], ids=errno.errorcode.get)
def test_a_lock_that_another_process_has_is_in_use(tmp_path, monkeypatch, number):
    refuse_locks(monkeypatch, number)
    assert lock(tmp_path / "lock", patience=0) is None and locked(tmp_path / "lock")


def test_a_lock_that_fails_for_another_reason_is_no_free_lock(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(OutputError, match="lock cannot be locked: Input/output error"):
        lock(tmp_path / "lock")


@pytest.fixture
def files(tmp_path):
    """A file of states, the original's three files, a file of vectors."""
    stored = write(tmp_path / "s.h5", *made_up(dtype="fp32"))
    write_original(stored, tmp_path, "old", 12)
    with h5py.File(tmp_path / "v.h5", "w") as f:
        f["vectors"] = np.zeros((2, 3), np.float32)
    return tmp_path


READERS = {
    "states": ("s.h5", lambda place: open_states(place / "s.h5")),
    "original": ("old_embeds.h5", lambda place: read_original(place, "old")),
    "vectors": ("v.h5", lambda place: read_vectors(place / "v.h5")),
    "writer": ("s.h5", lambda place: Writer(place / "s.h5", *made_up(dtype="fp32")[:2])),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("number", LACKING[:2], ids=errno.errorcode.get)
def test_hdf5_without_locks_names_the_cure(files, monkeypatch, reader, number):
    name, read = READERS[reader]
    refuse_hdf5(monkeypatch, number)
    with pytest.raises(DataError, match=rf"/{name} {CURE}"):
        read(files)


def test_new_hdf5_files_without_locks_name_the_cure(files, monkeypatch):
    stored = open_states(files / "s.h5")
    refuse_hdf5(monkeypatch, errno.ENOLCK)
    with pytest.raises(OutputError, match=rf"/new\.h5 {CURE}"):
        Writer(files / "new.h5", *made_up()[:2])
    with pytest.raises(OutputError, match=rf"/other_\w+\.h5 {CURE}"):
        write_original(stored, files, "other", 12)
    assert not list(files.glob("new*")) and not list(files.glob("other*"))


@pytest.mark.parametrize("reader", READERS)
def test_an_hdf5_file_that_another_holds_is_in_use(files, reader):
    name, read = READERS[reader]
    with open(files / name, "r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=rf"/{name} is being written by another process"):
            read(files)
    read(files)
