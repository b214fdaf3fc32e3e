"""A little lab for the runner's tests: experiments of plain Python, studies, records of runs that never took place."""

import shutil
import textwrap
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

from bertvision.cli import main
from bertvision.core.io import read_json, write_json
from bertvision.engine.grid import load_study
from bertvision.engine.local import run_study
from bertvision.engine.plan import plan
from bertvision.runs.records import new_record

PARAMETERS = 'task = "cola"\nencoder = "tiny-random"\nseed = 0\nlr = 1e-4\nepochs = 1.0\nout_dir = ""'
START = (
    'from bertvision.runs.run import Run\nrun = Run.start("learn", dict(task=task, seed=seed, lr=lr), out_dir, seed)'
)
FINISH = 'run.finish({"validation": {"accuracy": 0.5 + seed / 10}})'
STUDY = """
    tasks: [toy-sentiment]
    encoders: [tiny-random]
    seeds: [0, 1]
    steps: {learn: {}}
"""

TWO_STEPS = """
    tasks: [toy-sentiment]
    encoders: [tiny-random]
    seeds: [0, 1]
    steps: {learn: {}, use: {needs: [learn]}}
"""


class Lab:
    """A folder with experiments/, studies/, reports/ and outputs/."""

    def __init__(self, root: Path):
        self.root, self.out = root, root / "outputs"
        self.study(STUDY)

    def notebook(self, name: str, *cells: str, tag: str = "parameters", declaration: dict | None = None) -> Path:
        tags = [tag] + [""] * (len(cells) - 1)
        if declaration is not None:
            cells, tags = (*cells, f"declaration = {declaration!r}"), [*tags, "declaration"]
        body = [new_code_cell(source, metadata={"tags": [tag] if tag else []}) for source, tag in zip(cells, tags)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = self.root / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(cells=body, metadata={"kernelspec": kernel}), path)
        return path

    def experiment(self, *cells: str, name: str = "learn", parameters: str = PARAMETERS, **declaration) -> Path:
        return self.notebook(
            f"experiments/{name}", parameters, *(cells or (START, FINISH)), declaration=declaration or None
        )

    def study(self, text: str) -> Path:
        path = self.root / "studies" / "small.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def plan(self, *overrides: str, data=None, **grid):
        return plan(load_study("small", list(overrides), root=self.root, **grid), data, self.out)

    def run(self, *overrides: str, jobs: int = 1, **grid):
        return run_study(self.plan(*overrides, **grid), jobs=jobs, live=False)


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def cola_folder(folder: Path) -> Path:
    """A data folder with as little of CoLA as a plan looks at."""
    (folder / "CoLA").mkdir(parents=True)
    for name in ("train.tsv", "dev.tsv"):
        (folder / "CoLA" / name).write_text("a\t1\t\tA sentence .\n")
    return folder


def pretend_done(job, **changes):
    """Write the record that a finished run of this job would have left."""
    told = {"study": "small", "step": job.step, "run": job.id, "fingerprint": job.fingerprint, "parts": job.parts}
    record = new_record(job.experiment.stem, job.parameters, job.grid.get("seed", 0), job=told)
    record |= {"status": "done", "metrics": {"validation": {"accuracy": 0.5}}, "seconds": {"total": 1.0}} | changes
    write_json(job.folder / "record.json", record)


def run_small(place: Path, name: str, text: str, code: int = 0) -> Path:
    """Run a study's text to its end through the command; returns its folder."""
    file = place / "studies" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    assert main(["run", str(file), "--jobs", "2", "--out", str(place / "outputs")]) == code
    return place / "outputs" / name


def keep(study, wanted, planned=False):
    "Keep the runs that are wanted; what is planned stays or is the same."
    for place in (study / "runs").iterdir():
        if not wanted(place.name):
            shutil.rmtree(place)
    if not planned:
        plan = read_json(study / "plan.json")
        write_json(study / "plan.json", plan | {"jobs": [j for j in plan["jobs"] if wanted(j["run"])]})


def change(study, run, act):
    "Change a record in place."
    path = study / "runs" / run / "record.json"
    record = read_json(path)
    act(record)
    write_json(path, record)


def replan(study, word, **changes):
    "Change what is planned of the runs with a word in their names."
    plan = read_json(study / "plan.json")
    jobs = [job | changes if word in job["run"] else job for job in plan["jobs"]]
    write_json(study / "plan.json", plan | {"jobs": jobs})
