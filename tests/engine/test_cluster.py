"""The Snakemake engine: on this machine with plain-Python notebooks, and on a real SLURM of two nodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_nodes
from study_lab import FINISH, START, TWO_STEPS, Lab, pretend_done

from bertvision.cli import main
from bertvision.core.errors import StudyError
from bertvision.engine.cluster import Site, resources, run_on_cluster
from bertvision.engine.forecast import Forecast
from bertvision.engine.local import state_from_afar
from bertvision.runs.records import read_record

pytest.importorskip("snakemake", reason='snakemake is not installed: pip install "bertvision[cluster]"')

A, B = "learn.toy-sentiment.tiny-random.s0", "learn.toy-sentiment.tiny-random.s1"
QUICK = ("--seconds-between-status-checks", "2", "--slurm-init-seconds-before-status-checks", "2")


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    return lab


def go(lab, *overrides, jobs=2, profile="local", extra=(), **grid):
    return run_on_cluster(lab.plan(*overrides, **grid), jobs, profile, extra, live=False)


def attempts(lab, id):
    return [json.loads(line) for line in (lab.out / "small/cluster/attempts" / id).read_text().splitlines()]


def cli(lab, *more):
    return main(["run", str(lab.root / "studies/small.yaml"), "--out", str(lab.out), *more])


# On this machine.


def test_failed_killed_and_blocked_runs_in_a_folder_with_a_hostile_name(tmp_path):
    lab = Lab(tmp_path / """it's "a" $(touch hacked) `touch hacked`; lab""")
    lab.study(TWO_STEPS)
    lab.experiment(
        START,
        "mark = run.folder / 'checkpoint'\nwith open(run.folder / 'tries', 'a') as f: f.write('x')",
        "assert seed != 1, 'bad seed'\nimport os\nresumed = mark.exists()\n"
        "if not resumed:\n    mark.mkdir()\n    os.kill(os.getpid(), 9)",
        "threads = os.environ['OMP_NUM_THREADS']\n"
        'run.finish({"validation": {"accuracy": 0.5}}, extra={"resumed": resumed, "threads": threads})',
    )
    lab.experiment(START, FINISH, name="use")
    outcome = go(lab)
    assert outcome.done == [A, A.replace("learn", "use")] and outcome.blocked == {B.replace("learn", "use"): B}
    assert (
        outcome.failed[B]["reason"] == "AssertionError: bad seed"
        and "bad seed" in (outcome.folder / "failures.md").read_text()
    )
    record = read_record(outcome.folder / "runs" / A)
    assert record["resumed"] and record["attempt"] == 2 and len(attempts(lab, A)) == 2
    assert (outcome.folder / "runs" / B / "tries").read_text() == "x", "what fails by its own fault is not tried again"
    assert not list(tmp_path.rglob("hacked")) and not Path("hacked").exists()
    assert str(tmp_path) not in (outcome.folder / "runs" / A / "record.json").read_text()


def test_each_of_two_runs_at_once_has_a_gpu_of_its_own(lab, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    lab.experiment(
        START,
        "import os, time\n(run.folder / 'here').touch()\n"
        f"other = run.folder.parent / {A!r}.replace('s0', f's{{1 - seed}}') / 'here'\n"
        "while not other.exists(): time.sleep(0.1)",
        'run.finish({"validation": {"accuracy": 1.0}}, extra={"card": os.environ["CUDA_VISIBLE_DEVICES"]})',
    )
    outcome = go(lab)
    assert {read_record(outcome.folder / "runs" / id)["card"] for id in outcome.done} == {"5", "7"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_engine_that_dies_leaves_nobody_behind(lab, how):
    lab.experiment(
        START, "import os, time\n(run.folder / 'kernel').write_text(str(os.getpid()))\ntime.sleep(100)", FINISH
    )
    process = subprocess.Popen(engine(lab, "--seeds", "0"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    pid = lab.out / "small/runs" / A / "kernel"
    wait_for(lambda: pid.exists() and pid.read_text(), process)
    below = [int(pid.read_text()), *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
    process.send_signal(how)
    assert process.wait(40) == (130 if how == signal.SIGINT else -9)
    wait_for(lambda: all(gone(p) for p in below))
    assert state_from_afar(lab.plan(seeds=[0]).jobs[0]).name == "interrupted"


def engine(lab, *more):
    return [
        sys.executable,
        "-c",
        "import sys; from bertvision.cli import main; sys.exit(main())",
        "run",
        str(lab.root / "studies/small.yaml"),
        "--out",
        str(lab.out),
        "--engine",
        "snakemake",
        *more,
    ]


def wait_for(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_is_done_starts_no_snakemake(lab, monkeypatch, capsys):
    for job in lab.plan().jobs:
        pretend_done(job)
    monkeypatch.setattr("bertvision.engine.cluster.snakemake_command", None)
    assert cli(lab, "--engine", "snakemake") == 0 and "2 were done already" in capsys.readouterr().out


def test_a_no_op_of_five_hundred_runs(lab, monkeypatch, capsys):
    monkeypatch.setattr("bertvision.runs.records._code_version", lambda: "0")  # git would be asked five hundred times
    lab.study(f"{{tasks: [toy-sentiment], encoders: [tiny-random], seeds: {list(range(500))}, steps: {{learn: {{}}}}}}")
    history = [{"step": i, "loss": 0.5, "lr": 1e-4} for i in range(200)]
    for job in lab.plan().jobs:
        pretend_done(job, history=history)
    for name in ("local", "snakemake"):
        start = time.perf_counter()
        done = subprocess.run([*engine(lab)[:-1], name], capture_output=True, text=True)
        wall = time.perf_counter() - start
        assert done.returncode == 0 and "500 were done already" in done.stdout
        with capsys.disabled():
            print(f"\n500 finished runs, --engine {name}: {wall:.2f} s with Python's start")


# What is missing is said in one line, before anything starts.


def refused(lab, capsys, *more):
    assert cli(lab, *more) == 2 and not lab.out.exists()
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("bertvision: error: ")
    return err


def test_missing_snakemake(lab, capsys, monkeypatch):
    monkeypatch.setattr("bertvision.engine.cluster.find_spec", lambda name: None)
    assert 'pip install "bertvision[cluster]"' in refused(lab, capsys, "--engine", "snakemake")


def test_missing_sbatch(lab, capsys, monkeypatch):
    monkeypatch.setattr("bertvision.engine.cluster.shutil.which", lambda name: None)
    assert "no sbatch on the PATH" in refused(lab, capsys, "--engine", "snakemake", "--profile", "slurm")


def test_unknown_profile_and_profile_of_the_other_engine(lab, capsys):
    assert "--profile slrum: expected local, slurm, or" in refused(
        lab, capsys, "--engine", "snakemake", "--profile", "slrum"
    )
    assert "need --engine snakemake" in refused(lab, capsys, "--profile", "slurm")
    assert "need --engine snakemake" in refused(lab, capsys, "--", "--dry-run")


def test_a_folder_that_a_shell_would_carry_out_is_refused_on_a_cluster(lab, capsys, monkeypatch):
    monkeypatch.setattr("bertvision.engine.cluster.shutil.which", lambda name: name)
    lab.out = lab.root / "$(touch hacked)"
    assert "does not quote '$'" in refused(lab, capsys, "--engine", "snakemake", "--profile", "slurm")


def test_wrong_arguments_for_snakemake_are_its_own_last_words(lab):
    with pytest.raises(StudyError, match="before it started a run: .*--no-such-option"):
        go(lab, extra=["--no-such-option"])


def test_an_own_profile_chooses_the_executor(lab):
    folder = lab.root / "site"
    folder.mkdir()
    (folder / "config.yaml").write_text("executor: local\ncores: 8\n")
    assert go(lab, seeds=[0], jobs=None, profile=str(folder)).done == [A]


def test_what_a_job_asks_for(lab):
    job = lab.plan(seeds=[0]).jobs[0]
    gpu = Site({"device": "cuda", "name": "A100", "count": 1, "cores": 4}, minutes=240, memory_mb=8000)
    assert resources(job, Forecast(), gpu) == {"mem_mb": 4000, "runtime": 60, "gpu": 0, "threads": 4}
    lab.experiment("from bertvision.models.encoders import load_encoder", START, FINISH)
    asked = resources(lab.plan(seeds=[0]).jobs[0], Forecast(seconds=1e9, memory=1e12), gpu)
    assert asked == {"mem_mb": 8000, "runtime": 240, "gpu": 1, "threads": 4}


# On SLURM.


@pytest.fixture(scope="module")
def slurm():
    """Start two nodes, with sudo on a CI machine; stop them at the end unless they ran before."""
    there = slurm_nodes.alive("slurmctld") is not None
    script = [
        *(["sudo", "-n"] if os.environ.get("CI") and os.geteuid() and shutil.which("sudo") else []),
        sys.executable,
        slurm_nodes.__file__,
    ]
    done = subprocess.run([*script, "start"], capture_output=True, text=True)
    if done.returncode == slurm_nodes.IMPOSSIBLE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    yield script
    if not there:
        subprocess.run([*script, "stop"], check=True)


STEPS = (
    "import json, random, time\npoint = run.folder / 'checkpoint'\n"
    "first, total = json.loads(point.read_text()) if point.exists() else (0, 0.0)\n"
    "for i in range(first, 30):\n    total += random.Random(f'{seed}-{i}').random()\n"
    "    point.write_text(json.dumps([i + 1, total]))\n"
    "    run.update(i + 1, 30)\n    time.sleep(0.1)"
)
REPORT = 'run.finish({"validation": {"accuracy": total / 30}}, extra={"resumed_from": first})'


def results(lab):
    return {p.parent.name: read_record(p.parent)["metrics"] for p in lab.out.glob("small/runs/*/record.json")}


@pytest.fixture
def steps(tmp_path):
    """A lab whose runs take three seconds in thirty steps, and the results that the local runner gets."""
    lab = Lab(tmp_path / "my lab")
    lab.experiment(START, STEPS, REPORT)
    lab.out = lab.root / "calm"
    assert lab.run(jobs=2).ok
    calm, lab.out = results(lab), lab.root / "outputs"
    return lab, calm


@pytest.mark.slurm
@pytest.mark.slow
def test_a_study_on_two_nodes(slurm, steps):
    lab, calm = steps
    assert go(lab, profile="slurm", extra=QUICK).ok and results(lab) == calm
    assert {attempts(lab, id)[0]["node"] for id in (A, B)} == set(slurm_nodes.NODES)


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_lost_node_and_a_preempted_run(slurm, steps):
    """A more urgent job takes the place of one run; the node of the other is killed with all that runs on it."""
    lab, calm = steps
    lab.experiment(START, STEPS.replace("sleep(0.1)", "sleep(0.5)"), REPORT)
    process = subprocess.Popen(
        [*engine(lab, "--profile", "slurm"), "--", *QUICK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    points = [lab.out / "small/runs" / id / "checkpoint" for id in (A, B)]
    wait_for(lambda: all(p.exists() for p in points), process)
    mine, other = attempts(lab, A)[0], attempts(lab, B)[0]
    assert {mine["node"], other["node"]} == set(slurm_nodes.NODES)
    subprocess.run(
        ["sbatch", "--partition", "urgent", "--nodelist", other["node"], "--output", "/dev/null", "--wrap", "sleep 2"],
        check=True,
    )
    subprocess.run([*slurm, "kill-node", mine["node"]], check=True)
    assert state_from_afar(lab.plan().jobs[0]).name != "done"
    out = process.communicate(timeout=400)[0]
    subprocess.run([*slurm, "start"], check=True)  # the node comes back
    assert process.returncode == 0, out + (lab.out / "small/cluster/log.txt").read_text()[-3000:]
    assert results(lab) == calm
    for id in (A, B):
        record = read_record(lab.out / "small/runs" / id)
        assert record["attempt"] >= 2 and record["resumed_from"] > 0 and len(attempts(lab, id)) >= 2


@pytest.mark.slurm
@pytest.mark.slow
def test_ctrl_c_takes_the_jobs_out_of_the_queue(slurm, lab):
    lab.experiment(START, "import os, time\n(run.folder / 'here').touch()\ntime.sleep(200)", FINISH)
    process = subprocess.Popen(
        [*engine(lab, "--profile", "slurm"), "--", *QUICK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(list(lab.out.glob("small/runs/*/here"))) == 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and "the same command goes on" in process.stderr.read()
    wait_for(
        lambda: not subprocess.run(["squeue", "-h", "--states", "R,PD"], capture_output=True, text=True).stdout.strip()
    )
    wait_for(lambda: {state_from_afar(j).name for j in lab.plan().jobs} == {"interrupted"})
