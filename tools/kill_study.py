"""Kills at random moments of a small real study: the next `run` must end with what an undisturbed one ends with.

    python tools/kill_study.py --kills 20 --seed 0

A study on generated tasks fine-tunes, extracts states, trains heads on them and makes a report. The runner, the
nursery, a child, a kernel or all of the study's processes get SIGKILL, and the command is given again, until the study
ends; then the next study begins. Each kill prints its seed, moment, victim and verdict."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import pandas as pd
import psutil
from pandas.testing import assert_frame_equal
from safetensors.numpy import load_file

from bertvision.runs.records import read_record

STUDY = """
title: A study that is killed
tasks: [toy-sentiment]
encoders: [tiny-random]
seeds: {seeds}
steps:
  finetune:
    parameters:
      epochs: 3.0
      lr: 1e-3
      batch_size: 8
      train_examples: 400
      checkpoint_seconds: 0.2
      keep_model: true
  extract: {{experiment: extract_states, needs: [finetune], parameters: {{train_examples: 400}}}}
  heads:
    experiment: train_heads
    needs: [extract]
    parameters: {{heads: ["adapter-16:mean", "last:cls"], lrs: [1e-2], epochs: 3.0}}
report: glue
"""
VICTIMS = ("runner", "nursery", "child", "kernel", "all")


class Study:
    """A study in a folder of its own, and the command that runs it."""

    def __init__(self, place: Path, seeds: list, report: bool = True):
        self.file, self.out = place / "studies" / "killed.yaml", place / "outputs"
        self.file.parent.mkdir(parents=True)
        self.file.write_text(
            STUDY.format(seeds=seeds) if report else STUDY.format(seeds=seeds).replace("report: glue\n", "")
        )
        self.folder = self.out / "killed"

    def start(self) -> subprocess.Popen:
        command = [
            sys.executable,
            "-c",
            "import sys; from bertvision.cli import main; sys.exit(main())",
            "run",
            str(self.file),
            "--jobs",
            "2",
            "--out",
            str(self.out),
        ]
        with open(self.out.parent / "log.txt", "ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "BERTVISION_QUIET": "1"}, start_new_session=True
            )

    def log(self) -> str:
        return (self.out.parent / "log.txt").read_text(errors="replace")[-3000:]


def family(runner: subprocess.Popen) -> dict:
    """Return a study's processes by victim. Below a nursery all share its command line, so their depth decides."""
    try:
        below = psutil.Process(runner.pid).children(recursive=True)
    except psutil.Error:
        return {}
    found = {"runner": [psutil.Process(runner.pid)], "nursery": [], "child": [], "kernel": []}
    for process in below:
        try:
            line, above = " ".join(process.cmdline()), [p.pid for p in process.parents()]
        except psutil.Error:
            continue
        if "forkserver import nursery" in line and runner.pid in above:
            found[("nursery", "child", "kernel")[above.index(runner.pid)]].append(process)
        elif "engine.child import child" in line:
            found["child"].append(process)
        elif "ipykernel" in line:
            found["kernel"].append(process)
    found["all"] = [*found["runner"], *below]
    return {name: some for name, some in found.items() if some}


def kill(runner: subprocess.Popen, rng: random.Random) -> tuple:
    """Kill one kind of process, whichever is there; returns what it was, and all who lived then."""
    there = family(runner)
    victim = rng.choice([v for v in VICTIMS if v in there])
    for process in there[victim] if victim == "all" else [rng.choice(there[victim])]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            pass
    return victim, there["all"]


def all_gone(processes: list, seconds: float = 60.0):
    """Wait until all processes have ended; a kernel whose runner was killed ends by itself."""
    _, left = psutil.wait_procs(processes, seconds)
    assert not left, (
        f"still there {seconds:.0f} s after the runner's end: {[p.cmdline() for p in left if p.is_running()]}"
    )


def whole_files(folder: Path, finished: bool) -> int:
    """Count the files with their final names, opening each. Before the study's end, temporary files may be cut off."""
    count = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        unfinished = any(p.startswith((".", "new-")) for p in parts) or (
            not finished and (path.name == "notebook.ipynb" or "model" in parts)
        )
        if not path.is_file() or unfinished:
            continue
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".h5":
            with h5py.File(path, "r") as file:
                assert file.attrs["rows_written"] >= 0 and file["states"][:].shape
        else:
            continue
        count += 1
    return count


def results(study: Study) -> dict:
    """Metrics and predictions of all runs."""
    found = {}
    for place in sorted((study.folder / "runs").iterdir()):
        record = read_record(place)
        assert record["status"] == "done", f"{place.name} is {record['status']}: {record['failure']}"
        rows = (
            pd.read_parquet(place / "predictions.parquet")
            if (place / "predictions.parquet").exists()
            else pd.DataFrame()
        )
        scores = {
            "metrics": record["metrics"],
            "variants": [(v["variant"], v["seed"], v["metrics"]) for v in record.get("variants") or []],
        }
        found[place.name] = scores, rows
    return found


def same(a: dict, b: dict) -> str:
    """What differs between two studies' results; '' = nothing."""
    if a.keys() != b.keys():
        return f"runs {sorted(a)} and {sorted(b)}"
    for run in a:
        if a[run][0] != b[run][0]:
            return f"metrics of {run}: {a[run][0]} and {b[run][0]}"
        try:
            assert_frame_equal(a[run][1], b[run][1], check_exact=True)
        except AssertionError as e:
            return f"predictions of {run}: {str(e).splitlines()[0]}"
    return ""


def wait(runner: subprocess.Popen, seconds: float):
    """The exit code within some seconds, or None."""
    try:
        return runner.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def disturbed(study: Study, rng: random.Random, kills: int, typical: float, number: int, tell=print) -> tuple:
    """Run a study to its end with some kills at most; return their number, and the seconds of an undisturbed run."""
    done = 0
    for _ in range(kills + 20):
        start, runner = time.monotonic(), study.start()
        moment = rng.uniform(0.5, 0.8 * typical) if done < kills else 600.0
        code = wait(runner, moment)
        if code is not None:  # it ended before its time had come, or after the last kill
            if code == 0:
                return done, typical if done else time.monotonic() - start
            if done == kills:
                raise AssertionError(f"the last run of study {number} ended with {code}:\n{study.log()}")
            continue  # a run that had lost its child or kernel before; the command is given again
        if done == kills:
            raise AssertionError(f"study {number} does not end:\n{study.log()}")
        victim, everybody = kill(runner, rng)
        code, done = (runner.wait() if victim in ("runner", "all") else wait(runner, 300)), done + 1
        all_gone(everybody)
        files = whole_files(study.folder, False) if study.folder.exists() else 0
        tell(
            f"study {number}, kill {done}: {victim} after {time.monotonic() - start:.1f} s (planned {moment:.2f}), "
            f"runner ended with {code}, {files} files whole",
            flush=True,
        )
    raise AssertionError(f"study {number} does not end:\n{study.log()}")


def main(argv=None) -> int:
    """0 when all studies ended as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=4, help="kills at most of one study (default: 4)")
    parser.add_argument("--short", action="store_true", help="one seed and no report, for the test suite")
    parser.add_argument("--keep", help="folder to work in, which stays (default: a temporary one)")
    args = parser.parse_args(argv)
    place, left, number, failed = Path(args.keep or tempfile.mkdtemp(prefix="kill-study-")), args.kills, 0, 0
    make = lambda name: Study(place / name, [0] if args.short else [0, 1], not args.short)
    calm, start = make("undisturbed"), time.monotonic()
    if code := calm.start().wait():
        raise SystemExit(f"the undisturbed study ended with {code}:\n{calm.log()}")
    typical, wanted = time.monotonic() - start, results(calm)
    print(f"undisturbed: {len(wanted)} runs in {typical:.1f} s, {whole_files(calm.folder, True)} files", flush=True)
    while left:
        number += 1
        seed = args.seed * 1000 + number
        study, rng = make(f"study-{number}"), random.Random(seed)
        print(f"study {number}: seed {seed}", flush=True)
        kills, typical = disturbed(study, rng, min(left, rng.randint(1, args.each)), typical, number)
        left -= kills
        difference = same(wanted, results(study))
        failed += bool(difference)
        print(
            f"study {number}: {kills} kills, {whole_files(study.folder, True)} files whole, "
            f"{difference or 'the same metrics and predictions'}",
            flush=True,
        )
        if not args.keep:
            shutil.rmtree(study.out.parent)
    print(f"{args.kills} kills in {number} studies, seed {args.seed}: {failed} differ", flush=True)
    if not args.keep:
        shutil.rmtree(place)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
