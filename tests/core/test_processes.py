"""Several processes on one training: the same losses, the same files, nothing lost when they are killed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shared_work
from launching import LAUNCH

from bertvision.core.io import read_json

PROGRAM = Path(shared_work.__file__)


def start(place: Path, *words: str, launch=LAUNCH) -> int:
    env = os.environ | {"OMP_NUM_THREADS": "1", "BERTVISION_DEVICE": "cpu"}
    return subprocess.run(
        [sys.executable, *launch, str(PROGRAM), str(place), *words], env=env, capture_output=True, timeout=300
    ).returncode


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """One process; two; two of which the first is killed and both begin again."""
    alone, two, cut = (tmp_path_factory.mktemp(name) for name in ("alone", "two", "cut"))
    assert start(alone, "alone", launch=[]) == 0
    assert start(two, "together") == 0
    assert start(cut, "kill") != 0 and not (cut / "dropped" / "told.json").exists()
    assert start(cut, "resume") == 0
    return alone, two, cut


def told(place: Path, name: str) -> dict:
    return read_json(place / name / "told.json")


def test_two_processes_learn_what_one_learns(places):
    """50 steps and more of two batches each, some with a single example."""
    alone, two, _ = places
    one, shared = told(alone, "plain"), told(two, "plain")
    assert len(one["loss"]) >= 50 and one["loss"][-1] < one["loss"][0]
    np.testing.assert_allclose(one["loss"], shared["loss"], atol=1e-4, rtol=0)


def test_no_example_is_scored_twice_or_left_out(places):
    alone, two, _ = places
    one, shared = (pd.read_parquet(place / "plain" / "predictions.parquet") for place in (alone, two))
    assert list(one["example_id"]) == list(shared["example_id"]) and one["example_id"].is_unique
    assert told(alone, "plain")["metrics"] == told(two, "plain")["metrics"]


def test_a_shared_file_of_states_is_the_same_to_the_byte(places):
    alone, two, _ = places
    for name in ("fp16.h5", "int8.h5"):
        assert (alone / name).read_bytes() == (two / name).read_bytes()


def test_two_processes_that_were_killed_end_as_if_nothing_had_been(places):
    """With dropout, whose numbers each process draws for itself."""
    _, two, cut = places
    whole, again = told(two, "dropped"), told(cut, "dropped")
    assert whole["resumed_from"] == 0 and again["resumed_from"] in (22, 23)
    assert whole["loss"] == again["loss"] and whole["metrics"] == again["metrics"]
    pd.testing.assert_frame_equal(*(pd.read_parquet(place / "dropped" / "predictions.parquet") for place in (two, cut)))
