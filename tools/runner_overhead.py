"""Time what the local runner adds to a run, beside papermill's own command and a plain script with the same cells.

    python tools/runner_overhead.py --runs 8 --rounds 3

The run imports the trainer and writes its record, nothing else, so that all its time is overhead.
The four ways take turns; medians are printed."""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from study_lab import FINISH, PARAMETERS, START, Lab

IMPORTS = "from bertvision.training.trainer import fit"
# as on a machine that cannot fork
COLD = "import bertvision.engine.local as r; assert r.open_nursery; r.open_nursery = lambda *_: None; "
MAIN = "import sys; from bertvision.cli import main; sys.exit(main())"


def make(place: Path, runs: int) -> Lab:
    lab = Lab(place)
    lab.experiment(IMPORTS, START, FINISH)
    lab.study(
        f"{{tasks: [toy-sentiment], encoders: [tiny-random], seeds: {list(range(runs))}, steps: {{learn: {{}}}}}}"
    )
    return lab


def timed(*command) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def study(place: Path, runs: int, before: str = "") -> float:
    """Seconds a run of `bertvision run`."""
    lab = make(place, runs)
    return timed("-c", before + MAIN, "run", lab.root / "studies" / "small.yaml", "--out", lab.out) / runs


def papermill(place: Path, runs: int) -> float:
    lab = make(place, runs)
    notebook = lab.root / "experiments" / "learn.ipynb"
    return statistics.mean(
        timed(
            "-m",
            "papermill",
            notebook,
            place / f"{s}.ipynb",
            "-p",
            "seed",
            s,
            "-p",
            "out_dir",
            place / f"run-{s}",
            "--no-progress-bar",
        )
        for s in range(runs)
    )


def script(place: Path, runs: int) -> float:
    code = [
        PARAMETERS.replace('out_dir = ""', f"out_dir = {str(place / f'run-{s}')!r}").replace("seed = 0", f"seed = {s}")
        for s in range(runs)
    ]
    return statistics.mean(timed("-c", "\n".join([c, IMPORTS, START, FINISH])) for c in code)


WAYS = {
    "plain script": script,
    "papermill, a command a run": papermill,
    "bertvision run, each kernel started anew": lambda *a: study(*a, COLD),
    "bertvision run": study,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    found = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, ask in WAYS.items():
            with tempfile.TemporaryDirectory(prefix="overhead-") as place:
                found[way].append(ask(Path(place), args.runs))
    medians = {way: statistics.median(times) for way, times in found.items()}
    for way, seconds in medians.items():
        added, speed = seconds - medians["plain script"], medians["papermill, a command a run"] / seconds
        print(f"{way:42} {seconds:6.2f} s a run, {added:+6.2f} s, {speed:.2f} times as fast as papermill's command")


if __name__ == "__main__":
    main()
