"""Time what the witness and the marks add to a run: one epoch of fine-tuning on CoLA, with and without them in turns.

    BERTVISION_DATA=GLUE_FOLDER python tools/witness_overhead.py --rounds 3

Both ways execute the cells of the experiment in a process of their own, with the same seed. Without means: no marks at
the entry of functions (BERTVISION_MARKS=0), no stock, no list of what was executed. Medians and the ratio of each pair
are printed."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import bertvision.runs.run
bertvision.runs.run.Witness.verify = lambda self: {}
bertvision.runs.run.write_own_executed = lambda: None
"""
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
notebook, parameters = json.load(open(sys.argv[1])), json.loads(sys.argv[2])
shell = InteractiveShell.instance()
for cell in notebook["cells"]:
    if cell["cell_type"] != "code": continue
    result = shell.run_cell("".join(cell["source"]), store_history=True)
    if not result.success: sys.exit(1)
    if "parameters" in cell["metadata"].get("tags", []):
        lines = [f"{k} = {v!r}" for k, v in parameters.items()]
        shell.run_cell("\\n".join(["# Parameters", *lines]), store_history=True)
"""


def timed(marks: bool, task: str, examples: int) -> tuple:
    """Seconds of the whole process, and of the training."""
    with tempfile.TemporaryDirectory(prefix="witness-") as place:
        given = {
            "task": task,
            "encoder": "minilm-l6",
            "epochs": 1.0,
            "lr": 1e-4,
            "train_examples": examples,
            "out_dir": f"{place}/run",
        }
        env = os.environ | {
            "BERTVISION_MARKS": str(int(marks)),
            "MPLBACKEND": "agg",
            "BERTVISION_QUIET": "1",
            "PYTHONPATH": str(ROOT),
            "BERTVISION_CACHE": f"{place}/cache",
            "IPYTHONDIR": f"{place}/ipython",
        }
        start = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            ("" if marks else WITHOUT) + RUN,
            str(ROOT / "nbs/experiments/finetune.ipynb"),
            json.dumps(given),
        ]
        done = subprocess.run(command, env=env, cwd=place, capture_output=True, text=True)
        wall = time.perf_counter() - start
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return wall, json.loads(Path(place, "run", "record.json").read_text())["seconds"]["train"]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", default="cola")
    parser.add_argument("--examples", type=int, default=0, help="of train; 0 = all")
    args = parser.parse_args(argv)
    seconds = {True: [], False: []}
    for n in range(args.rounds):
        for marks in (True, False) if n % 2 == 0 else (False, True):
            seconds[marks].append(timed(marks, args.task, args.examples))
            process, training = seconds[marks][-1]
            print(f"{'with' if marks else 'without':8} {process:7.2f} s, training {training:7.2f} s", flush=True)
    for i, what in enumerate(("whole process", "training")):
        ratios = [a[i] / b[i] for a, b in zip(seconds[True], seconds[False])]
        medians = [statistics.median(x[i] for x in seconds[marks]) for marks in (True, False)]
        pairs = ", ".join(f"{r:.3f}" for r in ratios)
        print(
            f"{what}: with {medians[0]:.2f} s, without {medians[1]:.2f} s; "
            f"ratios of the pairs {pairs}, median {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
