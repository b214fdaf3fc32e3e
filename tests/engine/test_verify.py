"""Replays: equal code is equal, a planted change is found and placed, what cannot be replayed is said to be so."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_lab import Lab, pretend_done

import bertvision
from bertvision.cli import main
from bertvision.core.errors import DataError, StudyError
from bertvision.core.executed import source_of
from bertvision.core.hashing import fingerprint
from bertvision.core.io import read_json, resources, write_json
from bertvision.engine import verify as module
from bertvision.engine.declaration import read_declaration
from bertvision.engine.fingerprint import notebook_fingerprint
from bertvision.engine.grid import load_study
from bertvision.engine.plan import job_state, plan
from bertvision.engine.verify import Sources, find_groups, small_parameters, verify, why_no_code
from bertvision.reporting.page import accepted
from bertvision.reporting.results import read_study
from bertvision.runs.locks import lock
from bertvision.runs.records import read_record

PLANTED = {
    "same": [],
    "head": [("models/encoders.py", "with _quiet(), torch_seed(seed):", "with _quiet(), torch_seed(seed + 1):")],
    "optimiser": [
        (
            "training/optimizers.py",
            "torch.optim.AdamW(groups, lr=recipe.lr,",
            "torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.99),",
        )
    ],
    "broken": [("training/trainer.py", '"""', 'raise RuntimeError("the library has no such name any more")\n"""')],
    "noisy": [],
}
STUDY = """
    tasks: [toy-sentiment]
    encoders: [tiny-random]
    seeds: [0, 1, 2, 3, 4, 5, 6]
    steps:
      finetune: {parameters: {epochs: 1, keep_model: true, max_length: 32}}
      extract: {experiment: extract_states, needs: [finetune], parameters: {max_length: 32}}
"""
CODES = ["same", "head", "optimiser", "broken", "same-dirty", "", "0000000"]  # of the seeds


def copy_of_today(folder: Path, changes=()) -> Path:
    """A folder with today's package and experiments, some lines of it changed."""
    clone = Path(bertvision.__file__).parents[1]
    shutil.copytree(clone / "bertvision", folder / "bertvision", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(clone / "nbs" / "experiments", folder / "nbs" / "experiments")
    for name, old, new in changes:
        path = folder / "bertvision" / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"the test no longer finds its line in {name}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """A study of seven seeds, each made by another code, after `verify`."""
    root = tmp_path_factory.mktemp("verify")
    study = root / "studies" / "small.yaml"
    study.parent.mkdir()
    study.write_text("\n".join(line[4:] for line in STUDY.splitlines()))
    p = plan(load_study(str(study)), out=root / "outputs")
    for job in p.jobs:
        code = CODES[job.grid["seed"]]
        pretend_done(job, code_version="0.1.0" + (f"+{code}" if code else ""))
        record = read_record(job.folder)
        older = record["fingerprints"] | {"code": "older", "job": f"older {job.id}"}
        if job.needs:
            older["needs"] = module.fingerprint([f"older {job.needs[0]}"])
        write_json(job.folder / "record.json", record | {"fingerprints": older})
    codes = {f"0.1.0+{name}": copy_of_today(root / "codes" / name, changes) for name, changes in PLANTED.items()}
    lines = []
    found = verify(p, say=lines.append, codes=codes)
    return p, found, lines


def verdict_of(verified, step, code):
    p, found, _ = verified
    seed = CODES.index(code)
    return next(
        v for i, v in found.verdicts.items() if found.groups[i].job.id == f"{step}.toy-sentiment.tiny-random.s{seed}"
    )


def test_the_same_code_is_equal_in_all_that_a_run_leaves(verified):
    first, second = (verdict_of(verified, step, "same") for step in ("finetune", "extract"))
    assert first.result == second.result == "equal", (first.why, second.why)
    assert {"loss", "weights", "predictions", "metrics"} <= {k for k, n in first.compared.items() if n}
    assert second.compared["states"] > 1000


def test_another_initialisation_of_the_head_is_found_at_the_first_loss(verified):
    found = verdict_of(verified, "finetune", "head")
    assert found.result == "different" and found.where["loss"].startswith("step 1, ")
    assert "model/model.safetensors" in found.where["weights"]


def test_another_constant_in_the_optimiser_is_found_after_the_first_loss(verified):
    found = verdict_of(verified, "finetune", "optimiser")
    assert found.result == "different"
    assert found.where["loss"].startswith("step ") and not found.where["loss"].startswith("step 1,")


@pytest.mark.parametrize(
    "code, reason",
    [
        ("broken", "the code of the record does not run .* RuntimeError: the library has no such name any more"),
        ("same-dirty", "commit same is not in this clone|no git clone"),
        ("", "an installed package"),
        ("0000000", "commit 0000000 is not in this clone|no git clone"),
    ],
)
def test_what_cannot_be_replayed_is_unverifiable_with_the_reason(verified, code, reason):
    found = verdict_of(verified, "finetune", code)
    assert found.result == "unverifiable"
    assert module.re.search(reason, found.why), found.why


def test_what_builds_on_a_run_that_differs_is_not_verified(verified):
    for code, reason in (
        ("head", "it builds on finetune.toy-sentiment"),
        ("broken", "it builds on finetune.toy-sentiment"),
        ("same-dirty", "commit same is not in this clone|no git clone"),
    ):
        found = verdict_of(verified, "extract", code)
        assert found.result == "unverifiable"
        assert module.re.search(reason, found.why), found.why


def test_evidence_stands_in_the_record_and_the_run_counts_for_today(verified):
    p, found, _ = verified
    same = [job for job in p.jobs if job.grid["seed"] == 0]
    assert found.accepted == [job.id for job in same] and not found.refused
    for job in p.jobs:
        (evidence,) = read_record(job.folder)["evidence"]
        assert evidence["record_code"].startswith("0.1.0") and evidence["versions"]["torch"]
        assert evidence["result"] == "unverifiable" or evidence["device"]["device"]
        assert job_state(job).name == ("done" if job in same else "changed")
    (entry,) = read_record(same[0].folder)["accepted"]
    assert entry["reason"] == "replayed: equal to the bit" and entry["evidence"]["result"] == "equal"
    assert read_record(same[0].folder)["evidence"][0]["replay"]["train_examples"] == 48


def test_the_report_tells_replays_from_promises(verified):
    p, _, _ = verified
    (row,) = accepted(read_study(p.folder)).to_dict("records")
    assert (row["Runs"], row["How"]) == ("2", "replayed")


def test_progress_and_table(verified):
    _, found, lines = verified
    assert lines[0].startswith("14 settings of 14 finished runs") and sum(line.startswith("[") for line in lines) == 14
    assert [found.count(r) for r in ("equal", "different")] == [2, 2]
    assert found.table().splitlines()[0].split() == [
        "step",
        "settings",
        "runs",
        "equal",
        "rounding",
        "different",
        "unverifiable",
        "other",
        "settings",
        "minutes",
    ]


def test_nothing_is_left_behind(verified):
    assert not list(
        Path(module.tempfile.gettempdir()).glob("bertvision-verify-*/record/finetune.toy-sentiment.tiny-random.s0")
    )


def test_runs_of_other_settings_are_named_and_not_replayed(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    for job in lab.plan().jobs:
        pretend_done(job)
    lines = []
    verify(lab.plan("lr=0.5"), say=lines.append, dry_run=True)
    assert any(line.startswith("other settings: learn.toy-sentiment.tiny-random.s0") for line in lines)


def test_seeds_are_one_setting_and_codes_are_not(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    for job in lab.plan(seeds=[0, 1, 2]).jobs:
        pretend_done(job, code_version=f"0.1.0+{'a' if job.grid['seed'] < 2 else 'b'}")
    p = lab.plan(seeds=[0, 1, 2])
    groups = find_groups(p, {job.id: read_record(job.folder) for job in p.jobs})
    assert [[job.grid["seed"] for job in g.runs] for g in groups] == [[0, 1], [2]]


def test_a_study_without_records_is_one_clear_error(tmp_path, capsys):
    assert main(["verify", "demo", "--out", str(tmp_path)]) == 2
    assert "no finished run: nothing to verify" in capsys.readouterr().err


def test_not_beside_a_running_study(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    held = lock(lab.plan().folder / ".lock")
    with pytest.raises(StudyError, match="another bertvision is running"):
        verify(lab.plan())
    held.close()


def test_without_git_the_reason_says_so(monkeypatch):
    monkeypatch.setattr(module, "_git", lambda *command: None)
    assert "there is no git" in why_no_code("0.1.0+925e21a")


def test_a_shallow_clone_is_named(monkeypatch):
    answers = {
        "cat-file": subprocess.CompletedProcess([], 1, b"", b""),
        "rev-parse": subprocess.CompletedProcess([], 0, b"true\n", b""),
    }
    monkeypatch.setattr(module, "_git", lambda command, *more: answers[command])
    assert (
        why_no_code("0.1.0+925e21a") == "commit 925e21a is not in this clone, which is shallow: git fetch --unshallow"
    )


def test_a_tree_with_changes_counts_where_the_run_executed_none_of_them(tmp_path, monkeypatch):
    root, home, version = tmp_path / "commit", tmp_path / "study", "0.1.0+abcdef0-dirty"
    module_file = root / "bertvision" / "data" / "tasks.py"
    module_file.parent.mkdir(parents=True)
    module_file.write_text("one = 1\n")
    (root / "nbs" / "experiments").mkdir(parents=True)
    notebook = shutil.copy(resources() / "experiments" / "finetune.ipynb", root / "nbs" / "experiments")
    kept = {"bertvision.data.tasks": {"source": source_of(module_file).digest, "executed": {}, "file": ""}}
    (home / "executed").mkdir(parents=True)
    write_json(home / "executed" / f"{fingerprint(kept)}.json", kept)
    record = {
        "experiment": "finetune",
        "code_version": version,
        "executed": fingerprint(kept),
        "fingerprints": {"notebook": notebook_fingerprint(notebook)},
    }
    monkeypatch.setattr(module, "why_no_code", lambda version: "")

    def why(record):
        sources = Sources(tmp_path)
        sources.folders[version] = root
        return sources.why_not_of(record, home)

    assert why(record) == ""
    newer = {
        "fingerprints": {"notebook": "0"},
        "accepted": [{"was": record["fingerprints"]}, {"was": {"notebook": "1"}}],
    }
    assert why(record | newer) == ""  # accepted for newer code since
    assert "holds the notebook finetune that it executed" in why(record | {"fingerprints": {"notebook": "0"}})
    assert "holds the code (there is no list of it) that" in why(record | {"executed": "0" * 16})
    module_file.write_text("one = 2\n")
    assert (
        why(record)
        == f"it was made by {version}, and no commit holds the module bertvision.data.tasks that it executed"
    )


def test_what_is_too_small_for_both_codes_is_replayed_once_more(monkeypatch):
    prepared = []
    monkeypatch.setattr(module.Rehearsal, "_prepare", lambda self, id: prepared.append(id))
    rehearsal = object.__new__(module.Rehearsal)
    rehearsal.enlarged, rehearsal.verdicts, rehearsal.small = set(), {}, {"a": {}, "b": {}, "c": {}}
    fails, slow, ends = (
        SimpleNamespace(failure=failure, ended=seconds, seconds=seconds)
        for failure, seconds in (("DataError: too few words", 1.0), ("it took more than 15 minutes", 901.0), ("", 1.0))
    )
    rehearsal.replays = {"a": {"record": fails, "today": fails}, "b": {"record": slow, "today": slow}}
    rehearsal._judge("a")
    assert prepared == ["a"] and not rehearsal.verdicts
    rehearsal._judge("a")
    rehearsal._judge("b")
    assert prepared == ["a"] and {v.result for v in rehearsal.verdicts.values()} == {"unverifiable"}
    rehearsal.replays["c"] = {"record": ends, "today": fails}
    rehearsal._judge("c")
    assert prepared == ["a"] and rehearsal.verdicts["c"].result == "different"


def test_evidence_of_a_wrong_shape_is_refused(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    job = lab.plan().jobs[0]
    pretend_done(job)
    record = read_json(job.folder / "record.json")
    write_json(job.folder / "record.json", record | {"evidence": [{"result": 3}]})
    with pytest.raises(DataError, match="evidence: 0: .*expected an object with the texts result"):
        read_record(job.folder)


def test_every_amount_of_an_experiment_is_made_small():
    small = small_parameters(
        {"train_examples": 0, "report_examples": 50, "epochs": 5.0, "patience": 3, "lora": 3, "steps": 0}
    )
    assert small == {"train_examples": 48, "report_examples": 32}
    declared = read_declaration(resources() / "experiments" / "train_heads.ipynb")
    assert small_parameters({"head_examples": 0, "extract_dir": ""}, declared) == {"head_examples": 40}
    assert small_parameters({"head_examples": 0, "extract_dir": "../extract.s0"}, declared) == {}, (
        "a part of stored states cannot be drawn"
    )


@pytest.mark.parametrize(
    "code, reason", [(-9, "the system ran out of memory"), (1, "died with exit code 1"), (None, "took more than")]
)
def test_a_replay_that_is_killed_has_a_reason(tmp_path, code, reason):
    replay = module.Replay(None, tmp_path, tmp_path / "x.ipynb", {}, tmp_path / "run", kills=module.oom_kills())
    assert reason in module._failure(replay, code)


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    first, second = lab.plan().jobs
    for job in (first, second):
        pretend_done(job)
    (first.folder / "record.json").write_text("{")
    lines = []
    verify(lab.plan(), say=lines.append, dry_run=True)
    assert lines[0].startswith(f"{first.id} is left out: ") and "record.json" in lines[0]


def test_places_are_taken_out_of_reasons():
    assert (
        module._plain("DataError: /data/here/CoLA/train.tsv cannot be read, 3/4 of it")
        == "DataError: …/train.tsv cannot be read, 3/4 of it"
    )


def test_what_an_ensemble_combines_reports_the_same_examples():
    glue, probes = (plan(load_study(name), inputs=False) for name in ("glue-small", "probes-small"))
    whole = module.fully_reported(glue)
    assert {id.split(".")[0] for id in whole} == {"finetune", "extract", "heads"}, (
        "extract_states cannot draw a part of the reported split"
    )
    assert not module.fully_reported(probes)
