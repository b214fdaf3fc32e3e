"""A training killed with SIGKILL in the middle of an epoch resumes from its checkpoint: the same numbers."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import kill_study
import pytest

CODE = """
import json, os, signal, sys
from bertvision import fit, load_encoder, load_task, subset

folder, kill_at = sys.argv[1], int(sys.argv[2])
data = load_task("toy-acceptability")
data.splits["train"] = subset(data["train"], 640, seed=0)


def on_step(step, total, **_):
    if step == kill_at: os.kill(os.getpid(), signal.SIGKILL)


encoder = load_encoder("tiny-random", data.task)
result = fit(encoder, data, epochs=2, lr=1e-3, folder=folder, on_step=on_step, checkpoint_seconds=1e-9)
numbers = {"metrics": result.metrics, "loss": result.history.loss.tolist()}
print(json.dumps(numbers | {"resumed": result.resumed_from, "steps": result.steps}))
"""


def train(folder: Path, kill_at: int):
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(kill_at)], capture_output=True, text=True, timeout=300
    )
    if kill_at:
        assert done.returncode == -signal.SIGKILL, done.stderr
        return None
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_killed_in_the_middle_of_an_epoch(tmp_path):
    undisturbed = train(tmp_path / "a", 0)
    assert undisturbed["resumed"] == 0 and undisturbed["steps"] == 72
    train(tmp_path / "b", 20)  # first epoch
    train(tmp_path / "b", 50)  # and again, in the second
    resumed = train(tmp_path / "b", 0)
    assert resumed["resumed"] == 49
    assert resumed["metrics"] == undisturbed["metrics"]
    assert resumed["loss"] == undisturbed["loss"]


@pytest.mark.long
@pytest.mark.slow
def test_a_study_killed_twice_ends_like_an_undisturbed_one(tmp_path, capsys):
    """Two of the twenty kills of `python tools/kill_study.py --kills 20`."""
    assert kill_study.main(["--kills", "2", "--each", "2", "--seed", "3", "--short", "--keep", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "2 kills in " in told and "0 differ" in told
