"""Time `bertvision report STUDY` with this code and with another commit's, in turns.

    python tools/report_times.py --old 7fd1a90 --studies glue-small,probes-small,subsets-small --rounds 3

Both sides report a copy of outputs/ in a temporary folder, so that the committed reports stay as they are. Each imports
its modules once before the clock starts, which compiles them; nothing else is kept from one report to the next. A round
measures every study with the old code and then with this one. Wall times are what a user waits; CPU times count all
processes. The load shows whether other programs ran: ratios are reliable when it is low.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
IMPORTS = (
    "import importlib, pkgutil, bertvision; "
    "[importlib.import_module(m.name) for m in pkgutil.walk_packages(bertvision.__path__, 'bertvision.')]"
)
COMMAND = "from bertvision.cli import main; import sys; sys.exit(main())"


def checked_out(commit: str, place: Path) -> Path:
    """The tree of a commit."""
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, capture_output=True).stdout
    place.mkdir()
    subprocess.run(["tar", "-x"], cwd=place, input=archive, check=True)
    return place


def report(tree: Path, study: str, outputs: Path) -> tuple:
    """Wall and CPU seconds of one report."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "report", study, "--out", str(outputs)],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{tree}: report {study} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(sides: dict, studies: list, rounds: int, show=print) -> dict:
    """(study, side) -> (wall, CPU) of each round; sides: name -> (tree, outputs)."""
    for tree, _ in sides.values():
        subprocess.run(
            [sys.executable, "-c", IMPORTS], cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True
        )
    found = {}
    for number in range(rounds):
        for study in studies:
            for name, side in sides.items():
                found.setdefault((study, name), []).append(report(side[0], study, side[1]))
                wall, cpu = found[study, name][-1]
                load = os.getloadavg()[0]
                show(f"round {number + 1}: {study:20} {name:4} {wall:6.1f} s wall {cpu:6.1f} s CPU   load {load:.1f}")
    return found


def table(found: dict, studies: list) -> str:
    """Medians, and how many times faster this code is."""
    lines = ["| study | old, s | new, s | times faster | old, CPU s | new, CPU s |", "|---|---:|---:|---:|---:|---:|"]
    for study in studies:
        old, new = ([statistics.median(column) for column in zip(*found[study, name])] for name in ("old", "new"))
        lines.append(f"| {study} | {old[0]:.1f} | {new[0]:.1f} | {old[0] / new[0]:.1f} | {old[1]:.1f} | {new[1]:.1f} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default="7fd1a90", metavar="COMMIT")
    parser.add_argument("--studies", default="glue-small,probes-small,subsets-small")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    studies = args.studies.split(",")
    with tempfile.TemporaryDirectory(prefix="report-times-") as folder:
        sides = {"old": checked_out(args.old, Path(folder) / "old"), "new": HERE}
        for name in sides:
            for study in studies:
                shutil.copytree(HERE / "outputs" / study, Path(folder) / f"outputs-{name}" / study)
        found = measure(
            {name: (tree, Path(folder) / f"outputs-{name}") for name, tree in sides.items()}, studies, args.rounds
        )
    print(f"\nload at the end {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n{table(found, studies)}")


if __name__ == "__main__":
    main()
