"""How many edits of the package make finished runs stale: by the modules they import, and by what they executed.

    python tools/stale_commits.py history --commits 60 --until 7fd1a90 --list
    python tools/stale_commits.py replay --commits 60 --until 7fd1a90 --pairs 5 --seed 0
    python tools/stale_commits.py edits

`history` goes through the last commits that changed the package, merges left out. For each it runs the experiments with
their smoke defaults in the tree of its parent, and asks both rules whether these runs are stale in the commit's tree.
`replay` draws runs that are stale by module and not by what they executed, runs them on both sides of the commit, and
compares their records and predictions to the bit.
`edits` makes small edits in a copy of today's tree, asks both rules, and counts the committed runs that become stale.

Both rules are today's, also in old trees. Every run is a fork of a process that has imported torch, and has a cache of
its own. `history` and `edits` train for one epoch, which executes the same functions as the notebooks' defaults: compared
for the three experiments at 7fd1a90. `replay` takes the defaults. Nothing is read from the network.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import traceback
import types
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ("finetune", "train_heads", "probe_layers")
SECONDS = 300  # a run that takes longer has failed
WARM = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "torch",
    "torch._dynamo",
    "transformers",
    "datasets",
    "accelerate",
    "h5py",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "matplotlib.pyplot",
    "transformers.models.bert.modeling_bert",
    "scipy.stats",
    "sklearn.metrics",
    "IPython.core.interactiveshell",
)
CLOCKS = (
    "seconds",
    "per_second",
    "started",
    "finished",
    "memory",
    "code_version",
    "versions",
    "attempt",
    "stock",
    "executed",
    "bytes_written",
    "groups",
)  # also what differs between two runs of one tree, which write times


# trees


def git(*words) -> str:
    """Return what git prints."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def commits_of_package(until: str, count: int) -> list[tuple[str, str, str]]:
    """Return (commit, parent, subject) of the last commits that changed a module, newest first."""
    lines = git(
        "log",
        "--no-merges",
        f"-{count}",
        "--format=%h %p %s",
        until,
        "--",
        "bertvision/*.py",
        ":!bertvision/_modidx.py",
    ).splitlines()
    return [tuple(line.split(" ", 2)) for line in lines]


def extract(commit: str, folder: Path) -> Path:
    """Write the package and its notebooks as a commit has them; caches of marked code go by content and stay."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            path.unlink()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "bertvision", "nbs"], check=True, stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


# processes


def in_fork(work, *given):
    """Return what a function returns in a fork of this process, as JSON has it; {"error": …} when it fails."""
    with tempfile.TemporaryDirectory(prefix="stale-fork-") as place:
        answer = Path(place, "answer.json")
        process = os.fork()
        if not process:
            signal.alarm(SECONDS)
            os.chdir(place)
            with open("log", "w") as log:
                for stream in (1, 2):
                    os.dup2(log.fileno(), stream)
            try:
                value = work(*given)
            except BaseException as error:
                traceback.print_exc()
                value = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            answer.write_text(json.dumps(value))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if answer.exists():
            return json.loads(answer.read_text())
        return {"error": f"the process ended with {os.waitstatus_to_exitcode(status)}"}


def enter(tree: Path):
    """Make this process import the package from a tree, with today's way of marking functions."""
    for name in [n for n in sys.modules if n.split(".")[0] == "bertvision"]:
        del sys.modules[name]
    sys.path.insert(0, str(tree))
    spec = importlib.util.spec_from_file_location(
        "bertvision.core.executed", ROOT / "bertvision" / "core" / "executed.py"
    )
    executed = importlib.util.module_from_spec(spec)
    sys.modules["bertvision.core.executed"] = executed
    spec.loader.exec_module(executed)
    executed.install()
    importlib.import_module("bertvision")
    return executed


def code_cells(notebook: Path) -> list[tuple[str, list]]:
    """Return (source, tags) of a notebook's code cells."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [("".join(c["source"]), c["metadata"].get("tags", [])) for c in cells if c["cell_type"] == "code"]


# what is asked in a fork


def run_experiment(tree: Path, experiment: str, out: str, short: bool = True) -> dict:
    """Run a notebook with its defaults, or for one epoch only; return what it executed."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    for name in ("BERTVISION_DATA", "BERTVISION_MARKS", "BERTVISION_MARKS_DIR"):
        os.environ.pop(name, None)
    os.environ |= {
        "BERTVISION_CACHE": os.path.abspath("cache"),
        "IPYTHONDIR": os.path.abspath("ipython"),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
    }
    executed = enter(tree)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    for source, tags in code_cells(tree / "nbs" / "experiments" / f"{experiment}.ipynb"):
        shell.run_cell(source, store_history=False).raise_error()
        if "parameters" in tags:
            shell.user_ns["out_dir"] = out
            if short and "epochs" in shell.user_ns:
                shell.user_ns["epochs"] = 1.0
    kept = executed.describe(executed.executed())
    own = sorted(module for module, then in kept.items() if then["file"])
    assert not own, f"modules of another tree were executed: {', '.join(own)}"
    return kept


def changes_in(tree: Path, kept: dict) -> list:
    """Return what a run executed and is no longer the same in a tree."""
    return enter(tree).changes(kept)


def closures_in(old: Path, new: Path, experiments: list) -> dict:
    """Return, by experiment, which modules differ between two trees, whether the notebook does, and the old code."""
    sys.path.insert(0, str(ROOT))
    fingerprints = importlib.import_module("bertvision.engine.fingerprint")

    def closure(tree: Path, sources: list) -> dict:
        names = runpy.run_path(str(tree / "bertvision" / "__init__.py"))
        fingerprints.bertvision = types.SimpleNamespace(__file__=names["__file__"], _HOME_OF=names["_HOME_OF"])
        return fingerprints.code_closure(sources)

    found = {}
    for experiment in experiments:
        notebooks = [tree / "nbs" / "experiments" / f"{experiment}.ipynb" for tree in (old, new)]
        if not all(notebook.exists() for notebook in notebooks):
            found[experiment] = {"modules": [], "notebook": True, "code": "", "closure": []}
            continue
        cells = [[fingerprints._without_prose(source) for source, _ in code_cells(notebook)] for notebook in notebooks]
        before, after = (closure(tree, cells[0]) for tree in (old, new))
        modules = sorted(m for m in before.keys() | after.keys() if before.get(m) != after.get(m))
        code = fingerprints.fingerprint([before, cells[0]])
        changed = cells[0] != cells[1]
        found[experiment] = {"modules": modules, "notebook": changed, "code": code, "closure": list(before)}
    return found


# history


@dataclass
class Row:
    """What a commit does to the runs of an experiment."""

    commit: str
    parent: str
    subject: str
    experiment: str
    modules: list = field(default_factory=list)  # that the notebook imports and that differ
    ran: list = field(default_factory=list)  # what was executed and differs
    notebook: bool = False  # whether the notebook differs
    error: str = ""  # of the run


class History:
    """Runs the experiments at the parents of commits; a run whose code is that of an earlier one is not run again."""

    def __init__(self, place: Path):
        self.old, self.new, self.out = place / "old", place / "new", place / "out"
        self.kept = {}  # (experiment, code) -> what was executed

    def run(self, experiment: str, code: str, closure: list) -> dict:
        """Return what an experiment executes in the old tree."""
        if (known := self.kept.get((experiment, code))) is not None:
            return known
        kept = in_fork(run_experiment, self.old, experiment, str(self.out))
        shutil.rmtree(self.out, ignore_errors=True)
        files = {f"{module.removeprefix('bertvision.').replace('.', '/')}.py" for module in kept}
        if "error" not in kept and files <= set(closure):
            self.kept[experiment, code] = kept
        return kept

    def rows(self, commit: str, parent: str, subject: str) -> list[Row]:
        """Run the experiments in the parent's tree, and ask both rules about the commit's."""
        extract(parent, self.old)
        extract(commit, self.new)
        closures = in_fork(closures_in, self.old, self.new, EXPERIMENTS)
        if "error" in closures:
            raise SystemExit(f"{commit}: {closures['error']}")
        found = []
        for experiment in EXPERIMENTS:
            of = closures[experiment]
            row = Row(commit, parent, subject, experiment, of["modules"], notebook=of["notebook"])
            found.append(row)
            kept = self.run(experiment, of["code"], of["closure"])
            answer = kept if "error" in kept else in_fork(changes_in, self.new, kept)
            if isinstance(answer, dict):
                row.error = answer["error"]
            else:
                row.ran = answer
        return found


def history(args) -> list[Row]:
    """Return the rows of all commits, from the file that keeps them where it has them."""
    known = {}
    if args.keep and args.keep.exists():
        for row in map(json.loads, args.keep.read_text().splitlines()):
            known.setdefault(row["commit"], []).append(Row(**row))
    found = []
    commits = commits_of_package(args.until, args.commits)
    with tempfile.TemporaryDirectory(prefix="stale-") as place:
        ask = History(Path(place))
        for number, (commit, parent, subject) in enumerate(commits, 1):
            rows = known.get(commit) or ask.rows(commit, parent, subject)
            found += rows
            if args.keep and commit not in known:
                with args.keep.open("a") as file:
                    file.writelines(json.dumps(vars(row)) + "\n" for row in rows)
            if args.list:
                print(f"{number}/{len(commits)} {commit} {subject[:90]}", flush=True)
                for row in rows:
                    print(f"    {describe_row(row)}", flush=True)
    return found


def shortened(names: list, count: int = 4) -> str:
    """Return the first names of a list."""
    return ", ".join(names[:count]) + f" … ({len(names)})" * (len(names) > count)


def describe_row(row: Row) -> str:
    """Return a line that says what a commit does to the runs of an experiment."""
    if row.error:
        return f"{row.experiment:13} failed: {row.error.splitlines()[0][:150]}"
    modules = shortened(row.modules) or "-"
    notebook = ", the notebook" * row.notebook
    return f"{row.experiment:13} by module: {modules}{notebook}; by what ran: {shortened(row.ran) or '-'}"


def print_history(rows: list[Row]):
    """Print the table of all commits."""
    head = (
        "experiment",
        "commits",
        "stale by module",
        "stale by what ran",
        "notebook changed",
        "module or notebook",
        "what ran or notebook",
        "run failed",
    )
    print(" | ".join(head))
    for experiment in EXPERIMENTS:
        mine = [row for row in rows if row.experiment == experiment]
        good = [row for row in mine if not row.error]
        counts = [
            len(mine),
            sum(bool(row.modules) for row in mine),
            sum(bool(row.ran) for row in good),
            sum(row.notebook for row in mine),
            sum(bool(row.modules or row.notebook) for row in mine),
            sum(bool(row.ran or row.notebook) for row in good),
            len(mine) - len(good),
        ]
        print(" | ".join([experiment, *map(str, counts)]))
    odd = [row for row in rows if row.ran and not row.modules]
    print(f"stale by what ran and not by module: {len(odd)}")
    for row in odd:
        print(f"    {row.commit} {describe_row(row)}")


# the other direction: is what is not stale really the same?


def results_of(folder: Path):
    """Return a run's record without what a clock, a machine or a version says, and its predictions."""
    import pandas as pd

    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return without_clocks(record), pd.read_parquet(folder / "predictions.parquet")


def without_clocks(value):
    """Return a record without the values that differ between two equal runs."""
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if not any(clock in k for clock in CLOCKS)}
    return [without_clocks(v) for v in value] if isinstance(value, list) else value


def differences(first: tuple, second: tuple) -> list:
    """Return in which keys and columns two runs differ, by a single bit or more."""
    (record, table), (other_record, other_table) = first, second
    keys = sorted(record.keys() | other_record.keys())
    found = [key for key in keys if json.dumps(record.get(key)) != json.dumps(other_record.get(key))]
    if list(table.columns) != list(other_table.columns) or len(table) != len(other_table):
        return [*found, "predictions: columns or rows"]
    return found + [f"predictions: {c}" for c in table if not same_bits(table[c], other_table[c])]


def same_bits(one, other) -> bool:
    """Whether two columns hold the same numbers to the bit, or the same texts."""
    if one.dtype != other.dtype:
        return False
    if one.dtype.kind in "fiub":
        return one.to_numpy().tobytes() == other.to_numpy().tobytes()
    return [repr(v) for v in one] == [repr(v) for v in other]


def replay(args):
    """Run some of the pairs that only the old rule calls stale, and print in what they differ."""
    rows = [row for row in history(args) if row.modules and not (row.ran or row.notebook or row.error)]
    drawn = random.Random(args.seed).sample(rows, min(args.pairs, len(rows)))
    print(f"{len(rows)} runs are stale by module alone; {len(drawn)} of them drawn with seed {args.seed}")
    for row in drawn:
        with tempfile.TemporaryDirectory(prefix="stale-") as place:
            outs = []
            for commit in (row.parent, row.commit):
                tree = extract(commit, Path(place, commit))
                outs.append(Path(place, f"out-{commit}"))
                answer = in_fork(run_experiment, tree, row.experiment, str(outs[-1]), False)
                if "error" in answer:
                    raise SystemExit(f"{commit}, {row.experiment}: {answer['error']}")
            first, second = map(results_of, outs)
            differ = differences(first, second)
            result = f"differ in {', '.join(differ)}" if differ else "equal to the bit"
            print(
                f"{row.parent} → {row.commit} {row.experiment}: {len(first[1])} predictions, {result}",
                f"({shortened(row.modules)})",
                flush=True,
            )


# edits of one line

POOLER = """

@layer_pooler("max")
class MaxLayers(MeanLayers):
    "The largest of all states."
    def forward(self, x: Ragged) -> Ragged: return x.like(x.values.amax(1))
"""
TASK = """

register_task(Task(
    "cola-short", "CoLA, short", "classification", ("matthews", "accuracy"), ("unacceptable", "acceptable"),
    folder=Folder(("CoLA",), tsv(("sentence",), "label", **_SPLITS)), rows={"train": 100, "validation": 100}))
"""
ENCODER = """

register_encoder(EncoderInfo("distilroberta-base", "distilbert/distilroberta-base", layers=6, width=768, parameters=82_118_400))
"""
EDITS = {  # title -> (file, old text, new text); an old text of "" stands for the end of the file
    "a plot that probe_layers draws of some runs": [
        ("probing/similarity.py", 'cmap="viridis", square=True', 'cmap="magma", square=True')
    ],
    "a plot that finetune draws": [("training/trainer.py", 'ylabel="training loss"', 'ylabel="loss in training"')],
    "a message, its function not executed by a good run": [
        ("heads/specs.py", "; examples of names: adapter", "; try adapter")
    ],
    "a message, in a function that runs execute": [
        ("training/trainer.py", " has no head: load it with", " lacks a head: load it with")
    ],
    "a new head": [("heads/poolers.py", "", POOLER)],
    "a new task": [("data/tasks.py", "", TASK)],
    "a new encoder": [("models/registry.py", "", ENCODER)],
}


def edit_tree(tree: Path, title: str):
    """Make one of the edits. Raises SystemExit when the text to replace is not there exactly once."""
    for file, old, new in EDITS[title]:
        path = tree / "bertvision" / file
        text = path.read_text(encoding="utf-8")
        if old and text.count(old) != 1:
            raise SystemExit(f"{title}: {file} has {text.count(old)} times {old!r}: expected 1; mend EDITS")
        path.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")


def committed_runs() -> Counter:
    """Return how many committed records there are of each experiment."""
    records = sorted(ROOT.glob("outputs/*/runs/*/record.json"))
    return Counter(json.loads(record.read_text(encoding="utf-8"))["experiment"] for record in records)


def edits(args):
    """Make each edit in a copy of a commit, and print which experiments and how many committed runs become stale."""
    counts = committed_runs()
    wanted = sorted(counts, key=lambda name: (name not in EXPERIMENTS, -counts[name]))
    with tempfile.TemporaryDirectory(prefix="stale-") as place:
        today = extract(args.until, Path(place, "today"))
        kept = {}
        for experiment in wanted:
            answer = in_fork(run_experiment, today, experiment, str(Path(place, f"out-{experiment}")))
            if "error" in answer:
                why = answer["error"].splitlines()[0][:150]
                print(f"{experiment} ({counts[experiment]} runs) is left out, it failed: {why}")
            else:
                kept[experiment] = answer
        print(f"{sum(counts[e] for e in kept)} committed runs of {len(kept)} experiments")
        for title in EDITS:
            edited = Path(place, "edited")
            shutil.copytree(today, edited)
            edit_tree(edited, title)
            print_edit(title, today, edited, kept, counts)
            shutil.rmtree(edited)


def print_edit(title: str, today: Path, edited: Path, kept: dict, counts: Counter):
    """Print what both rules say of an edit."""
    closures = in_fork(closures_in, today, edited, list(kept))
    ran = {experiment: in_fork(changes_in, edited, then) for experiment, then in kept.items()}
    before = [experiment for experiment in kept if closures[experiment]["modules"]]
    after = [experiment for experiment in kept if ran[experiment]]
    runs = [sum(counts[experiment] for experiment in stale) for stale in (before, after)]
    print(f"{title}: {runs[0]} → {runs[1]} runs stale", flush=True)
    for experiment in kept:
        old, new = ("stale" if experiment in stale else "-" for stale in (before, after))
        print(f"    {experiment:20} {old:5} → {new:5} {shortened(ran[experiment])}")


# command line


def warm_up():
    """Import what takes long."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main(argv=None):
    """Read the command line and do what it asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("history", "replay", "edits"))
    parser.add_argument("--commits", type=int, default=60, help="how many commits that changed the package")
    parser.add_argument("--until", default="HEAD", help="the last of these commits; of edits: what is edited")
    parser.add_argument("--list", action="store_true", help="print each commit with what changed")
    parser.add_argument("--keep", type=Path, help="file that keeps the rows, so that a second call goes on")
    parser.add_argument("--pairs", type=int, default=5, help="of replay: how many runs are compared")
    parser.add_argument("--seed", type=int, default=0, help="of replay: which runs are drawn")
    args = parser.parse_args(argv)
    warm_up()
    if args.what == "history":
        print_history(history(args))
    else:
        {"replay": replay, "edits": edits}[args.what](args)


if __name__ == "__main__":
    main()
