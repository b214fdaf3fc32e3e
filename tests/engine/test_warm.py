"""Runs in a nursery: warm, apart from each other, mortal like any other."""

import os
import signal
import subprocess
import sys
import time

import pytest
from study_lab import FINISH, START, Lab, gone

from bertvision.core.io import read_json
from bertvision.engine.forecast import this_machine
from bertvision.engine.forkserver import Nursery

WARM = 'import sys\nwarm = "torch" in sys.modules\nimport bertvision.models.encoders, os, psutil, signal, time'
THREE = "{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0, 1, 2], steps: {learn: {}}}"
NURSERY = "psutil.Process().parent().ppid()"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or this_machine()["device"] != "cpu", reason="forking needs Linux, and no GPU"
)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.study(THREE)
    return lab


def test_a_killed_kernel_is_one_failure_and_the_others_are_warm(lab):
    lab.experiment(
        WARM,
        START,
        "if seed == 1: os.kill(os.getpid(), signal.SIGKILL)",
        'run.finish({"validation": {"accuracy": float(warm)}})',
    )
    outcome = lab.run(jobs=2)
    ((name, failure),) = outcome.failed.items()
    assert name.endswith("s1") and "killed" in failure["reason"] and failure["cell"] == 4
    for job in lab.plan().jobs[::2]:
        assert read_json(job.folder / "record.json")["metrics"] == {"validation": {"accuracy": 1.0}}


def test_when_the_nursery_is_killed_the_rest_starts_cold(lab):
    lab.experiment(
        WARM,
        START,
        f"if seed == 0: os.kill({NURSERY}, signal.SIGKILL); time.sleep(60)",
        'run.finish({"validation": {"accuracy": float(warm)}})',
    )
    outcome = lab.run()
    ((name, failure),) = outcome.failed.items()
    assert name.endswith("s0") and "killed" in failure["reason"]
    for job in lab.plan().jobs[1:]:
        assert read_json(job.folder / "record.json")["metrics"] == {"validation": {"accuracy": 0.0}}


@pytest.mark.parametrize("victim", ["runner", "child"])
def test_nobody_is_left_when_the_runner_or_a_child_is_killed(lab, victim):
    lab.experiment(
        WARM,
        START,
        f'open("pids", "w").write(f"{{os.getpid()}} {{os.getppid()}} {{{NURSERY}}}")',
        "time.sleep(120)",
        FINISH,
    )
    runner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from bertvision.cli import main; sys.exit(main())",
            "run",
            str(lab.root / "studies" / "small.yaml"),
            "--out",
            str(lab.out),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    told, end = lab.plan().jobs[0].folder / "pids", time.monotonic() + 120
    while not (told.exists() and len(told.read_text().split()) == 3):
        assert runner.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    kernel, child, nursery = (int(p) for p in told.read_text().split())
    if victim == "runner":
        runner.kill()
    else:
        os.kill(child, signal.SIGKILL)
    pids, end = [kernel, child] + [nursery] * (victim == "runner"), time.monotonic() + 20
    while not all(map(gone, pids)):
        assert time.monotonic() < end, [p for p in pids if not gone(p)]
        time.sleep(0.1)
    runner.terminate()
    runner.wait(20)


def test_a_process_that_has_not_begun_can_be_stopped(tmp_path):
    nursery = Nursery(dict(os.environ))
    process = nursery.start(("time", "time"), [], tmp_path, dict(os.environ), tmp_path / "log.txt")
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == -signal.SIGKILL and not nursery.alive
