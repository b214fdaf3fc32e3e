"""Finished runs of an older code: what may be accepted, what never, and that the report says so."""

import pytest
from study_lab import FINISH, PARAMETERS, START, TWO_STEPS, Lab, pretend_done

from bertvision.cli import main
from bertvision.core.errors import ParameterError, StudyError
from bertvision.core.io import write_json
from bertvision.engine.accept import accept
from bertvision.engine.plan import job_state
from bertvision.reporting.page import accepted
from bertvision.reporting.results import read_study
from bertvision.runs.locks import lock
from bertvision.runs.records import read_record


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.study(TWO_STEPS)
    lab.experiment()
    lab.experiment(name="use", parameters=PARAMETERS + '\nlearn_dir = ""')
    for job in lab.plan().jobs:
        pretend_done(job)
    return lab


def states(lab):
    return {j.id: job_state(j).name for j in lab.plan().jobs}


def test_new_code_of_a_step_is_accepted_together_with_the_runs_on_top_of_it(lab):
    lab.experiment(START, "1 + 1", FINISH)
    assert set(states(lab).values()) == {"changed"}
    done, refused = accept(lab.plan(), "a cell that computes nothing")
    assert len(done) == 4 and not refused and set(states(lab).values()) == {"done"}
    assert lab.run().skipped == done


def test_a_record_keeps_what_made_it(lab):
    before = read_record(lab.plan().jobs[0].folder)
    lab.experiment(START, "1 + 1", FINISH)
    accept(lab.plan(), "a cell that computes nothing")
    after = read_record(lab.plan().jobs[0].folder)
    (entry,) = after["accepted"]
    assert entry["was"] == {k: before["fingerprints"][k] for k in ("notebook", "job")}
    assert {k: v for k, v in after.items() if k not in ("accepted", "fingerprints")} == {
        k: v for k, v in before.items() if k != "fingerprints"
    }


def test_a_new_parameter_at_its_default_is_accepted_another_value_is_not(lab):
    lab.experiment(parameters=PARAMETERS + "\nclip = 1.0")
    assert accept(lab.plan("learn.clip=2.0"), "clipping is new")[0] == []
    assert len(accept(lab.plan(), "clipping is new, 1.0 is what it was")[0]) == 4


@pytest.mark.parametrize("recorded, accepted", [(1.0, 4), (2.0, 0)])
def test_a_new_parameter_that_the_old_recipe_recorded_is_accepted_at_its_value(lab, recorded, accepted):
    for job in lab.plan().jobs:
        record = read_record(job.folder)
        write_json(job.folder / "record.json", record | {"parameters": record["parameters"] | {"clip": recorded}})
    lab.experiment(parameters=PARAMETERS + "\nclip = 1.0")
    lab.experiment(name="use", parameters=PARAMETERS + '\nlearn_dir = ""\nclip = 1.0')
    assert len(accept(lab.plan(), "clipping can be set now, 1.0 is what it was")[0]) == accepted


def test_another_value_of_a_known_parameter_is_refused(lab):
    done, refused = accept(lab.plan("learn.lr=1e-3"), "it hardly matters")
    assert done == [] and refused["learn.toy-sentiment.tiny-random.s0"] == "its parameters have other values"
    assert refused["use.toy-sentiment.tiny-random.s0"].startswith("it builds on learn.toy-sentiment.tiny-random.s0")


def test_what_was_built_on_other_runs_is_refused(lab):
    for job in lab.plan("learn.lr=1e-3").jobs[:2]:
        pretend_done(job)  # the first step was run again, the second was not
    done, refused = accept(lab.plan("learn.lr=1e-3"), "only the code has changed")
    assert done == [] and set(refused.values()) == {"it was built on other runs"}


def test_no_reason_no_acceptance(lab):
    with pytest.raises(ParameterError, match="expected a sentence"):
        accept(lab.plan(), "  ")


def test_not_beside_a_running_study(lab):
    held = lock(lab.plan().folder / ".lock")
    with pytest.raises(StudyError, match="another bertvision is running"):
        accept(lab.plan(), "a comment")
    held.close()


def test_the_report_lists_reasons(lab):
    lab.experiment(START, "1 + 1", FINISH)
    accept(lab.plan(), "a cell that computes nothing")
    (row,) = accepted(read_study(lab.plan().folder)).to_dict("records")
    assert (row["Runs"], row["Reason"]) == ("4", "a cell that computes nothing")


def test_command(tmp_path, capsys):
    argv = ["accept", "demo", "--out", str(tmp_path), "--reason", "nothing has been run"]
    assert main(argv) == 0 and "0 runs accepted, 0 refused" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(argv[:-2])
