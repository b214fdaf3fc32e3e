"""Every encoder family is right, or refused with its reason: a sample in turn, all of them with `-m long`."""

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from family_folders import family_folder, rotating_sample

from bertvision.conformance import suite as module
from bertvision.conformance.suite import (
    CELLS,
    VERDICTS,
    Conformance,
    Lab,
    Wrong,
    markdown,
    run_cell,
    run_suite,
    write_suite,
)
from bertvision.core.errors import EncoderError, ParameterError

ROOT = Path(__file__).parents[2]


def turn_of_commit() -> int:
    """The number of commits so far, so that each commit tests other families."""
    done = subprocess.run(["git", "rev-list", "--count", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(done.stdout) if done.stdout.strip().isdigit() else 0


@pytest.mark.slow
def test_a_sample_of_families_is_right_or_refused():
    names = rotating_sample(4, turn_of_commit())
    found = run_suite(names, jobs=2, timeout=300)
    faults = found.cells[found.cells["verdict"].isin(["wrong", "crash"])]
    assert not len(faults), f"{names}:\n{faults[['family', 'cell', 'verdict', 'detail']].to_string()}"


@pytest.mark.long
def test_all_families_are_right_or_refused(tmp_path):
    found = run_suite(jobs=int(os.environ.get("BERTVISION_JOBS", "2")))
    page = write_suite(found, tmp_path)
    assert len(found.table()) > 60
    assert found.counts()["wrong"] + found.counts()["crash"] == 0, page.read_text()


def lab(tmp_path) -> Lab:
    return Lab(family_folder("bert"), tmp_path)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Wrong("states differ"), "wrong"),
        (EncoderError("it is a decoder"), "refused"),
        (ParameterError("freeze = 9"), "refused"),
        (IndexError("index out of range"), "crash"),
        (AssertionError(), "crash"),
    ],
)
def test_only_a_reason_is_a_refusal(monkeypatch, tmp_path, error, verdict):
    def cell(lab):
        raise error

    monkeypatch.setitem(CELLS, "load", cell)
    assert run_cell(lab(tmp_path), "load").verdict == verdict


def test_states_that_depend_on_the_batch_are_wrong(monkeypatch, tmp_path):
    from bertvision.states.stream import Stream

    forward = Stream._forward

    def leaking(self, rows):
        states, mask = forward(self, rows)
        return [h + 1e-2 * (mask.shape[1] > 20) for h in states], mask

    monkeypatch.setattr(Stream, "_forward", leaking)
    assert run_cell(lab(tmp_path), "states").verdict == "wrong"


def test_freezing_that_freezes_nothing_is_wrong(monkeypatch, tmp_path):
    from bertvision.training import trainer

    monkeypatch.setattr(trainer, "freeze", lambda encoder, blocks: encoder)
    cell = run_cell(lab(tmp_path), "freeze")
    assert cell.verdict == "wrong" and "freeze=1" in cell.detail


def test_weights_that_are_not_the_checkpoints_are_wrong(monkeypatch, tmp_path):
    load = Lab.load

    def other(self, task=None, **options):
        encoder = load(self, task, **options)
        with torch.no_grad():
            next(encoder.model.base_model.encoder.parameters()).mul_(2)
        return encoder

    monkeypatch.setattr(Lab, "load", other)
    assert run_cell(lab(tmp_path), "load").verdict == "wrong"


def die(lab):
    os._exit(3)


def sleep(lab):
    time.sleep(600)


@pytest.mark.parametrize(("cell", "reason"), [(die, "exit code 3"), (sleep, "no answer in 5 s")])
def test_a_process_that_dies_or_hangs_is_one_crash(monkeypatch, tmp_path, cell, reason):
    """The process is forked, so that it has the changed table of cells."""
    monkeypatch.setattr(module, "CELLS", {"load": lambda lab: 0.0, "states": cell, "save": lambda lab: 0.0})
    monkeypatch.setattr(module, "start_process", forked)
    monkeypatch.setattr(module, "Nursery", lambda *arguments: None)
    found = run_suite(["bert"], timeout=5).cells.set_index("cell")
    assert found["verdict"].to_dict() == {"load": "right", "states": "crash", "save": "right"}
    assert reason in found.loc["states", "detail"]


def forked(entry, words, folder, env, log, warm):
    from bertvision.engine.forkserver import Forked, _end_with

    pid = os.fork()
    if pid:
        return Forked(pid)
    os.setsid()
    module.sys.argv = ["-c", *words]
    _end_with(module.family_child)


def test_the_page_lists_every_reason():
    import pandas as pd

    rows = [
        (f"family{i}", "Model", "states", verdict, None, f"reason | {i}", 0.0) for i, verdict in enumerate(VERDICTS)
    ]
    columns = ["family", "model", "cell", "verdict", "difference", "detail", "seconds"]
    others = pd.DataFrame([("vit", "ViTModel", "other input", "")], columns=["family", "model", "kind", "reason"])
    page = markdown(Conformance(pd.DataFrame(rows, columns=columns), others, {"torch": "2"}))
    assert "1 right, 1 wrong, 1 crash, 1 refused of 4 cells" in page and "torch 2" in page
    assert all(f"reason \\| {i}" in page for i in (1, 2, 3)) and "**other input** (1): vit" in page
