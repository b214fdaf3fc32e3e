"""A search killed with SIGKILL resumes with the proposals of an undisturbed one; its file is checked when read."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertvision.core.errors import DataError, EncoderError, ParameterError, TrainingError
from bertvision.training.search import SPACES, Trial, check_space, load_search, propose, search

CODE = """
import math, os, signal, sys
from bertvision.training.search import search

path, kill_at, batch, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), []
SPACE = {"lr": {"loguniform": [1e-5, 1e-1]}, "width": {"choice": [8, 16, 32]}, "seed": {"randint": [3, 9]},
         "decay": {"uniform": [0, 1]}}


def evaluate(proposals):
    losses = []
    for p in proposals:
        calls.append(p)
        if len(calls) == kill_at: os.kill(os.getpid(), signal.SIGKILL)
        loss = (math.log10(p["lr"]) + 3) ** 2 + p["decay"] + (p["width"] == 8)
        losses.append({"loss": math.nan if p["seed"] == 4 else loss, "curve": [loss, p["decay"]]})
    return losses


search(SPACE, evaluate, trials=26, batch=batch, startup=6, seed=5, path=path)
"""


def run(path: Path, kill_at: int, batch: int):
    command = [sys.executable, "-c", CODE, str(path), str(kill_at), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if kill_at:
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8"))


def without_times(raw: dict):
    return {**raw, "trials": [{k: v for k, v in t.items() if k != "seconds"} for t in raw["trials"]]}


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_twice_and_resumed(tmp_path, batch):
    whole = run(tmp_path / "a.json", 0, batch)
    assert len(whole["trials"]) == 26
    assert {t["status"] for t in whole["trials"]} == {"ok", "failed"}
    first = run(tmp_path / "b.json", 11, batch)  # in the middle of trial 10: among the first of TPE's proposals
    assert len(first["trials"]) == 10 // batch * batch
    second = run(tmp_path / "b.json", 10, batch)
    assert len(first["trials"]) < len(second["trials"]) < 26
    assert without_times(run(tmp_path / "b.json", 0, batch)) == without_times(whole)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []  # no torn temporary files


def test_killed_before_the_first_trial_is_done(tmp_path):
    assert run(tmp_path / "b.json", 1, 1)["trials"] == []
    assert without_times(run(tmp_path / "b.json", 0, 1)) == without_times(run(tmp_path / "a.json", 0, 1))


SPACE = {"x": {"uniform": [0, 1]}, "kind": {"choice": ["a", "b"]}}


def squares(proposals):
    return [(p["x"] - 0.3) ** 2 for p in proposals]


def tried(found):
    return [(t.number, t.parameters, t.loss, t.status, t.reason) for t in found.trials]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("stops", [[1, 2, 3, 30], [7, 13, 30], [29, 30]])
def test_lengthened_in_steps(tmp_path, algorithm, stops):
    settings = {"batch": 5, "seed": 1, "startup": 4, "algorithm": algorithm}
    for trials in stops:
        found = search(SPACE, squares, trials=trials, path=tmp_path / "t.json", **settings)
    assert tried(found) == tried(search(SPACE, squares, trials=30, **settings))


def test_a_proposal_does_not_depend_on_the_order_of_the_space_nor_on_earlier_calls():
    turned = dict(reversed(SPACE.items()))
    assert tried(search(turned, squares, trials=15)) == tried(search(SPACE, squares, trials=15))
    history = [Trial(i, {"x": i / 20, "kind": "ab"[i % 2]}, i / 20, "ok") for i in range(20)]
    before = propose(check_space(SPACE), history, seed=3)
    search(SPACES["heads"], lambda ps: [p["lr"] for p in ps], trials=15)
    assert propose(check_space(SPACE), history, seed=3) == before


def test_a_batch_is_blind_to_its_own_results(tmp_path):
    """Ten trials end in the middle of a batch; the rest of it must not depend on the scores of trials 8 and 9."""
    rests = []
    for bonus in (5.0, -5.0):
        path = tmp_path / f"{bonus}.json"
        search(SPACE, squares, trials=8, batch=4, startup=4, path=path)
        shifted = lambda ps, bonus=bonus: [x + bonus for x in squares(ps)]
        search(SPACE, shifted, trials=10, batch=4, startup=4, path=path)
        found = search(SPACE, squares, trials=16, batch=4, startup=4, path=path)
        rests.append([t.parameters for t in found.trials])
    assert rests[0][:12] == rests[1][:12] and rests[0][12:] != rests[1][12:]


def test_failed_trials_are_avoided_and_kept(tmp_path):
    def evaluate(proposals):
        return [{"loss": None, "reason": "collapsed"} if p["kind"] == "a" else p["x"] for p in proposals]

    found = search(SPACE, evaluate, trials=60, path=tmp_path / "t.json")
    table = found.table()
    assert (table.reason[table.kind == "a"] == "collapsed").all() and table.loss[table.kind == "a"].isna().all()
    assert (table.kind[20:] == "a").mean() < 0.3 < (table.kind[:10] == "a").mean() + 0.1
    assert tried(load_search(tmp_path / "t.json")) == tried(found)


def test_an_error_of_ours_fails_the_batch_and_any_other_ends_the_search(tmp_path):
    def evaluate(proposals):
        if proposals[0]["x"] > 0.5:
            raise EncoderError("cannot be loaded")
        return squares(proposals)

    found = search(SPACE, evaluate, trials=12, batch=3)
    for t in found.trials:
        assert (t.status == "failed") == (t.reason == "EncoderError: cannot be loaded")
    assert 0 < sum(t.status == "failed" for t in found.trials) < 12
    with pytest.raises(RuntimeError, match="out of memory"):
        search(SPACE, lambda ps: (_ for _ in ()).throw(RuntimeError("out of memory")), path=tmp_path / "t.json")
    assert load_search(tmp_path / "t.json").trials == []
    with pytest.raises(TrainingError, match="all 4 trials failed.*no GPU"):
        search(SPACE, lambda ps: [{"loss": np.inf, "reason": "no GPU"}] * len(ps), trials=4, path=tmp_path / "u.json")
    assert len(load_search(tmp_path / "u.json").trials) == 4


def test_numpy_results_and_steps_are_told(tmp_path):
    steps = []
    search(
        SPACE,
        lambda ps: np.array(squares(ps), dtype=np.float32),
        trials=7,
        batch=3,
        path=tmp_path / "t.json",
        on_step=lambda step, total, loss, best: steps.append((step, total, loss, best)),
    )
    assert [s[:2] for s in steps] == [(3, 7), (6, 7), (7, 7)]
    assert steps[-1][3] == load_search(tmp_path / "t.json").best.loss == min(s[2] for s in steps)


def test_a_file_of_another_search_is_refused(tmp_path):
    path = tmp_path / "t.json"
    search(SPACE, squares, trials=6, batch=2, path=path)
    before = path.read_bytes()
    for change in ({"seed": 1}, {"batch": 3}, {"algorithm": "random"}, {"startup": 3}, {"objective": "error"}):
        with pytest.raises(DataError, match=f"t.json holds a search with {next(iter(change))} = "):
            search(SPACE, squares, **{"trials": 8, "batch": 2, "path": path, **change})
    with pytest.raises(DataError, match="space = "):
        search({"x": {"uniform": [0, 2]}}, squares, batch=2, path=path)
    assert path.read_bytes() == before
    same = {"kind": {"choice": ("a", "b")}, "x": {"uniform": (0.0, 1.0)}}  # the same space, written otherwise
    assert len(search(same, squares, trials=8, batch=2, path=path).trials) == 8
    assert len(search(same, squares, trials=4, batch=2, path=path).trials) == 8  # none is thrown away


def damage(raw, key, value):
    raw["trials"][1][key] = value


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: raw.pop("content"), "is not a search file"),
        (lambda raw: raw.update(version=2), "version = 1"),
        (lambda raw: raw.pop("seed"), "damaged"),
        (lambda raw: raw.update(seed="1"), "damaged"),
        (lambda raw: raw["trials"].pop(0), "trial 0 has the number 1"),
        (lambda raw: damage(raw, "loss", None), "trial 1 has status 'ok' and loss None"),
        (lambda raw: damage(raw, "status", "pending"), "trial 1 has status 'pending'"),
        (lambda raw: damage(raw, "parameters", {"x": 0.5}), "trial 1 has the parameters"),
        (lambda raw: damage(raw, "parameters", {"x": 2, "kind": "a"}), "x = 2, which is outside the space"),
        (lambda raw: damage(raw, "parameters", {"x": 0.5, "kind": "c"}), "kind = 'c', which is outside the space"),
        (lambda raw: damage(raw, "colour", "red"), "damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    path = tmp_path / "t.json"
    search(SPACE, squares, trials=3, path=path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        search(SPACE, squares, trials=5, path=path)


def test_a_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "t.json"
    search(SPACE, squares, trials=3, path=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cut off"):
        search(SPACE, squares, path=path)


@pytest.mark.parametrize(
    "settings", [{"trials": 2.0}, {"trials": True}, {"batch": 0}, {"seed": -1}, {"startup": -1}, {"algorithm": "grid"}]
)
def test_settings_are_checked(settings):
    with pytest.raises(ParameterError, match=next(iter(settings))):
        search(SPACE, squares, **settings)


def test_a_recipe_reads_back_in_a_study(tmp_path):
    from bertvision.data.files import parse_yaml
    from bertvision.runs.recipes import Recipe

    found = search(SPACES["encoder"], lambda ps: [p["lr"] for p in ps], trials=3)
    path = found.write_recipe(tmp_path / "tuned.yaml", "two\nlines: of a title", task="rte")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# two lines: of a title\n")
    assert "selection part of rte" in text and "3 trials (0 failed), seed 0" in text
    read = parse_yaml(text, "tuned.yaml")
    assert read == {"parameters": found.best.parameters}
    Recipe().but(**read["parameters"])


def test_choices_of_mixed_types_can_be_tried_read_back_and_drawn(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    mixed = {"v": {"choice": [1, 2.5, True, "1"]}, "n": {"randint": [3, 6]}}
    found = search(
        mixed, lambda ps: [p["n"] + isinstance(p["v"], bool) for p in ps], trials=20, path=tmp_path / "t.json"
    )
    assert {type(t.parameters["v"]) for t in found.trials} == {int, float, bool, str}
    assert tried(load_search(tmp_path / "t.json")) == tried(found)
    by_choice = found.plot()[2]
    assert [label.get_text() for label in by_choice.get_xticklabels()] == ["1", "2.5", "True", "1"]
    at = by_choice.collections[0].get_offsets()
    place = {int: 0, float: 1, bool: 2, str: 3}
    assert [int(x) for x, _ in at] == [place[type(t.parameters["v"])] for t in found.trials]


def test_hyperopt_is_quiet(capfd, caplog):
    import logging

    with caplog.at_level(logging.DEBUG, logger="hyperopt"):
        search(SPACE, squares, trials=15)
    out, err = capfd.readouterr()
    assert out == "" and "loss" not in err and caplog.records == []
