"""The runner with real kernels: failures, kills, resuming, skipping. The notebooks are plain Python, so that a run takes two seconds."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import study_lab
from study_lab import FINISH, PARAMETERS, START, TWO_STEPS, Lab, gone, pretend_done

import bertvision
from bertvision.core.io import read_json
from bertvision.engine.local import (
    Active,
    Live,
    Outcome,
    judge,
    make_report,
    record_time,
    write_failures,
    write_job,
)
from bertvision.engine.plan import job_state
from bertvision.runs.locks import lock
from bertvision.runs.records import read_record

A, B = "learn.toy-sentiment.tiny-random.s0", "learn.toy-sentiment.tiny-random.s1"


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    return lab


def states(lab, *overrides, **grid):
    return {j.id: job_state(j).name for j in lab.plan(*overrides, **grid).jobs}


# What is skipped and what is done again; no kernel is needed to see it.


@pytest.fixture
def finished(lab):
    for job in lab.plan().jobs:
        pretend_done(job)
    assert set(states(lab).values()) == {"done"}
    return lab


def test_unchanged_runs_are_skipped_without_a_kernel(finished, monkeypatch):
    monkeypatch.setattr("bertvision.engine.local._start", None)
    outcome = finished.run()
    assert outcome.ok and len(outcome.skipped) == 2 and not outcome.done


def test_a_changed_parameter_touches_its_runs_only(finished):
    assert states(finished, "lr=2e-4") == {A: "changed", B: "changed"}
    finished.study("{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0, 1, 2], steps: {learn: {}}}")
    assert list(states(finished).values()) == ["done", "done", "new"]


def test_a_changed_notebook_is_executed_again_but_not_for_a_comment(finished):
    finished.experiment(START, "# only a remark\n" + FINISH)
    assert states(finished)[A] == "done"
    finished.experiment(START, FINISH + "\nprint(1)")
    assert states(finished)[A] == "changed"


def test_a_changed_module_counts_when_the_notebook_imports_it(finished, tmp_path, monkeypatch):
    import shutil
    from pathlib import Path

    copy = tmp_path / "bertvision"
    shutil.copytree(Path(bertvision.__file__).parent, copy)
    monkeypatch.setattr(bertvision, "__file__", str(copy / "__init__.py"))
    with open(copy / "cli.py", "a") as f:
        f.write("\nx = 1\n")
    assert states(finished)[A] == "done"
    with open(copy / "core/machine.py", "a") as f:
        f.write("\n# a comment\n")
    (copy / "core/machine.py").write_text(
        (copy / "core/machine.py").read_text().replace('"Seed Python', '"SEED Python')
    )
    assert (copy / "core/machine.py").read_text().count('"SEED Python')
    with open(copy / "__init__.py", "a") as f:
        f.write("\nx = 1\n")
    assert states(finished)[A] == "done"
    with open(copy / "core/machine.py", "a") as f:
        f.write("\nx = 1\n")
    assert states(finished)[A] == "changed"
    assert job_state(finished.plan().jobs[0]).why == "code changed"


def test_a_changed_data_file_counts_and_its_folder_may_move(lab, tmp_path):
    folder = tmp_path / "one" / "CoLA"
    folder.mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("a\t1\t\tA sentence .\n")
    before = lab.plan(data=tmp_path / "one", tasks=["cola"]).jobs[0]
    (tmp_path / "one").rename(tmp_path / "two")
    assert lab.plan(data=tmp_path / "two", tasks=["cola"]).jobs[0].fingerprint == before.fingerprint
    (tmp_path / "two/CoLA/dev.tsv").write_text("a\t0\t*\tSentence a .\n")
    assert lab.plan(data=tmp_path / "two", tasks=["cola"]).jobs[0].fingerprint != before.fingerprint


def test_a_changed_need_counts(lab):
    lab.study(TWO_STEPS)
    lab.experiment(name="use")
    before, after = lab.plan(), lab.plan("learn.lr=2e-4")
    assert [a.id for a, b in zip(before.jobs, after.jobs) if a.fingerprint == b.fingerprint] == []


# Failures.


def test_a_failing_cell_is_named_others_go_on_dependents_are_blocked(lab):
    lab.study(TWO_STEPS)
    lab.experiment(START, "# seed 1 is bad\nassert seed != 1, 'bad seed'", FINISH)
    lab.experiment(START, FINISH, name="use")
    outcome = lab.run(jobs=2)
    assert not outcome.ok and set(outcome.done) == {A, A.replace("learn", "use")}
    assert outcome.failed[B]["cell"] == 3 and outcome.failed[B]["source"] == "assert seed != 1, 'bad seed'"
    assert outcome.blocked == {B.replace("learn", "use"): B}
    page = (outcome.folder / "failures.md").read_text()
    for words in (
        "AssertionError: bad seed",
        "cell 3 of `learn.ipynb`",
        "Traceback",
        f"use.toy-sentiment.tiny-random.s1 needs {B}",
        "| lr | `0.0001` |",
    ):
        assert words in page
    assert read_record(outcome.folder / "runs" / B)["status"] == "failed"

    lab.experiment(START, FINISH)
    assert lab.run(jobs=2).ok
    assert not (outcome.folder / "failures.md").exists()


def test_a_kernel_killed_by_sigkill_is_explained_and_the_next_run_resumes(lab):
    lab.experiment(
        START,
        "point = run.folder / 'checkpoint' / 'step'\nresumed = point.exists()",
        "import os, time\nif not resumed:\n"
        "    time.sleep(0.2)\n    run.update(5, 5)\n    point.parent.mkdir()\n    point.write_text('5')\n    os.kill(os.getpid(), 9)",
        "run.phase.seconds['train'] = 0.2  # as a checkpoint brings it back",
        'run.finish({"validation": {"accuracy": 1.0}}, extra={"resumed": resumed})',
    )
    outcome = lab.run(seeds=[0])
    failure = outcome.failed[A]
    assert failure["exit_code"] == -9 and "killed" in failure["reason"] and failure["cell"] == 4
    assert states(lab, seeds=[0]) == {A: "failed"}
    assert lab.run(seeds=[0]).done == [A]
    record = read_record(outcome.folder / "runs" / A)
    assert record["resumed"] and record["attempt"] == 2
    assert (
        0.2 <= record["seconds_before"] < record["seconds"]["total"]
        and record["seconds"]["train"] <= record["seconds"]["total"]
    )
    timing = read_json(outcome.folder / "timing.json")
    assert (
        timing["runs"] == timing["jobs"] == 1
        and timing["seconds"] >= timing["run_seconds"] > timing["notebook_seconds"] > 0
    )


def test_a_checkpoint_of_other_parameters_is_not_resumed(lab):
    lab.experiment(
        START,
        "point = run.folder / 'checkpoint'\nfound = point.exists()\npoint.mkdir(exist_ok=True)",
        "assert lr > 1e-4 or found",
        'run.finish({"validation": {"accuracy": 1.0}}, extra={"found": found})',
    )
    assert not lab.run(seeds=[0]).ok
    assert lab.run("lr=2e-4", seeds=[0]).ok
    assert not read_record(lab.out / "small/runs" / A)["found"]


@pytest.mark.parametrize(
    "cell, words",
    [
        ("raise MemoryError('Unable to allocate 2 TiB')", "out of memory"),
        ("raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", "out of GPU memory"),
        ("raise OSError(28, 'No space left on device')", "disk full"),
        ("import os; os._exit(3)", "exit code 3"),
        ("pass", "without run.finish"),
    ],
)
def test_reasons(lab, cell, words):
    lab.experiment(START, cell)
    assert words in lab.run(seeds=[0]).failed[A]["reason"]


def test_a_record_that_was_cut_off_is_named_and_done_again(lab, capsys):
    for job in lab.plan(seeds=[0]).jobs:
        pretend_done(job)
    path = lab.out / "small/runs" / A / "record.json"
    path.write_text(path.read_text()[:100])
    assert lab.run(seeds=[0]).done == [A]
    said = capsys.readouterr().out
    assert "warning:" in said and str(path) in said and "cut off" in said


# How a run that has ended is judged.


@pytest.fixture
def ended(lab):
    """A run at work whose folder holds the failed record and the log of an earlier attempt."""
    job = lab.plan(seeds=[0]).jobs[0]
    pretend_done(job, status="failed", failure={"reason": "the old reason", "cell": 9})
    (job.folder / "log.txt").write_text("OSError: [Errno 28] No space left on device\n")
    write_job(job, "small")
    return Active(job, None, 0, record_time(job.folder), (job.folder / "log.txt").stat().st_size)


def test_an_older_attempt_says_nothing_about_this_one(ended):
    with open(ended.job.folder / "log.txt", "a") as f:
        f.write("Segmentation fault\n")
    failure = judge(ended, 1)
    assert (
        failure["traceback"] == ["Segmentation fault"]
        and "disk" not in failure["reason"]
        and "old" not in failure["reason"]
    )
    assert read_record(ended.job.folder)["failure"] == failure


def test_what_the_child_wrote_down_is_kept_though_a_lock_is_still_held(ended):
    told = {"reason": "bad seed", "cell": 3, "traceback": ["Traceback"]}
    pretend_done(ended.job, status="failed", failure=told)
    held = lock(ended.job.folder / ".lock")
    for code in (1, -9):
        assert judge(ended, code) == told
    held.close()
    assert read_record(ended.job.folder)["failure"] == told
    pretend_done(ended.job)
    assert judge(ended, 0) is None


# Kills and stops.

WAIT = "import os, time\n(run.folder / 'kernel').write_text(str(os.getpid()))\nwhile not os.path.exists(place): time.sleep(0.1)"


@pytest.fixture
def runner(lab):
    """A runner in a process of its own, whose kernel waits for a file; yields (lab, process, pid of the kernel)."""
    lab.experiment(
        START, WAIT, FINISH, parameters=PARAMETERS + f"\nplace = {str(lab.root / 'go')!r}", reads={"place": "nothing"}
    )
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(study_lab.__file__)!r})\nfrom pathlib import Path\nfrom study_lab import Lab\n"
        f"lab = Lab(Path({str(lab.root)!r}))\nlab.run(seeds=[0])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    pid = lab.out / "small/runs" / A / "kernel"
    wait_for(lambda: pid.exists() and pid.read_text(), process)
    yield lab, process, int(pid.read_text())
    if process.poll() is None:
        process.kill()
    process.communicate()


def wait_for(condition, process=None, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_dies_leaves_nobody_behind_and_can_be_repeated(runner, how):
    lab, process, kernel = runner
    assert states(lab, seeds=[0]) == {A: "running"}
    process.send_signal(how)
    process.wait(20)
    wait_for(lambda: gone(kernel), seconds=10)
    wait_for(lambda: states(lab, seeds=[0]) == {A: "interrupted"}, seconds=5)
    (lab.root / "go").write_text("")
    assert lab.run(seeds=[0]).done == [A]
    assert read_record(lab.out / "small/runs" / A)["attempt"] == 2


# Places, threads, reports, output.


def test_parallel_runs_share_the_cores_and_name_no_absolute_path(lab):
    lab.experiment(
        START,
        'import os\nrun.finish({"validation": {"accuracy": 1.0}}, extra={"threads": os.environ["OMP_NUM_THREADS"]})',
    )
    env = os.environ.pop("OMP_NUM_THREADS", None)
    try:
        outcome = lab.run(jobs=2)
    finally:
        if env:
            os.environ["OMP_NUM_THREADS"] = env
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for id in outcome.done:
        folder = outcome.folder / "runs" / id
        assert read_record(folder)["threads"] == str(max(1, cores // 2))
        assert str(lab.root) not in (folder / "record.json").read_text() + (folder / "notebook.ipynb").read_text()
    assert len(outcome.done) == 2


def test_the_report_is_made_once_and_again_when_a_record_changes(lab):
    lab.notebook(
        "reports/table",
        'study_dir = ""',
        "from pathlib import Path\nn = len(list(Path(study_dir).glob('runs/*/record.json')))",
        "Path('table.md').write_text(f'{n} runs')",
    )
    lab.study("{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0, 1], steps: {learn: {}}, report: table}")
    for job in lab.plan(seeds=[0]).jobs:
        pretend_done(job)
    assert lab.run(seeds=[0]).ok
    table = lab.out / "small/report/table.md"
    assert table.read_text() == "1 runs"
    table.write_text("untouched")
    assert lab.run(seeds=[0]).ok and table.read_text() == "untouched"
    table.unlink()
    assert lab.run(seeds=[0]).ok and table.read_text() == "1 runs"
    for job in lab.plan().jobs:
        pretend_done(job)
    assert lab.run().ok and table.read_text() == "2 runs"
    assert [j["seed"] for j in read_json(lab.out / "small/plan.json")["jobs"]] == [0, 1]


def test_a_failing_report_is_a_failure(lab):
    lab.notebook("reports/table", 'study_dir = ""', "1 / 0")
    lab.study("{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0], steps: {learn: {}}, report: table}")
    for job in lab.plan().jobs:
        pretend_done(job)
    outcome = lab.run()
    assert not outcome.ok and "ZeroDivisionError" in (outcome.folder / "failures.md").read_text()
    assert make_report(lab.plan())[1]["cell"] == 2


def test_the_live_table_draws_and_tells(lab, capsys):
    for job in lab.plan().jobs:
        pretend_done(job)
    job = lab.plan().jobs[0]
    (job.folder / "progress.json").write_text(json.dumps({"done": 1, "total": 4, "loss": 0.5}))
    active = type("Active", (), {"job": job, "seconds": 3.0})
    with Live(2, 20) as show:
        show.tick([active])
        show.finished(job.id, "done", 3.0, "accuracy [0.5]")
    assert "[1/2] done" in capsys.readouterr().out


def test_failures_of_a_child_that_left_no_record(lab):
    plan = lab.plan()
    plan.folder.mkdir(parents=True)
    outcome = Outcome(plan.folder, failed={A: {"reason": "the kernel died with exit code 9", "exit_code": 9}})
    assert "not in a cell" in write_failures(plan, outcome).read_text()
    assert write_failures(plan, Outcome(plan.folder)) is None and not (plan.folder / "failures.md").exists()


def test_finished_runs_are_a_no_op_that_imports_nothing_heavy(lab):
    """That torch and its like are not imported is what makes it fast; how fast, test_cluster's five hundred runs print."""
    lab.study("{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0, 1, 2], steps: {learn: {}}}")
    for job in lab.plan().jobs:
        pretend_done(job)
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(study_lab.__file__)!r})\nfrom pathlib import Path\n"
        "from bertvision.engine.grid import load_study; from bertvision.engine.plan import plan\nfrom bertvision.engine.local import run_study\n"
        f"root = Path({str(lab.root)!r})\noutcome = run_study(plan(load_study('small', root=root), None, root / 'outputs'))\n"
        "assert len(outcome.skipped) == 3\nheavy = {'torch', 'pandas', 'papermill', 'nbformat', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
