"""Studies of invented numbers, to see a report without a run; nothing in them was measured."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bertvision.core.io import read_json, write_json
from bertvision.data.tasks import get_task
from bertvision.metrics.scores import baseline, score
from bertvision.metrics.statistics import collapse

KNOWS = {"cola": 0.7, "mrpc": 0.8, "sts-b": 0.8, "rte": 0.62}  # task -> how often the invented model knows the answer


def invented_answers(task, seed, n=300):
    """Invented labels (the same for all seeds) and predictions; RTE's last seed has collapsed."""
    luck, rng = np.random.default_rng(n), np.random.default_rng(seed)
    if task.kind == "regression":
        labels = luck.uniform(0, 5, n)
        return labels, KNOWS[task.name] * labels + rng.normal(0, 1, n)
    labels = (luck.random(n) < 0.6).astype(int)
    if (task.name, seed) == ("rte", 2):
        return labels, np.ones(n, dtype=int)
    return labels, np.where(rng.random(n) < KNOWS[task.name], labels, 1 - labels)


def invented_history(task, seed, final):
    rows = []
    for step in range(1, 31):
        loss = 0.4 + 0.5 / step**0.5 + 0.02 * ((step * 7 + seed) % 5)
        rows.append(
            {"step": step, "epoch": step / 10, "loss": loss, "lr": 1e-4 * (1 - step / 31), "seconds": step / 10}
        )
        if step % 10 == 0:
            rows[-1][f"selection_{task.metrics[0]}"] = final * (0.7 + 0.1 * step / 10)
    return rows


def write_example_run(folder, name, seed):
    """Write the record and the predictions of one invented run."""
    task = get_task(name)
    labels, predictions = invented_answers(task, seed)
    scores = score(task.metrics, predictions, labels)
    record = {
        "schema": 1,
        "status": "done",
        "experiment": "finetune",
        "step": "finetune",
        "task": name,
        "encoder": "example-encoder",
        "seed": seed,
        "protocol": "carved",
        "parameters": {"epochs": 3.0, "batch_size": 16, "lr": 1e-4, "max_length": 64},
        "metrics": {"selection": scores, "validation": scores},
        "baselines": {"validation": baseline(task.metrics, labels, labels, task.kind)},
        "collapsed": collapse(predictions, labels, kind=task.kind),
        "examples": {"train": 900, "selection": 100, "validation": len(labels)},
        "seconds": {"train": 3.0, "total": 4.5},
        "examples_per_second": 900.0,
        "peak_memory_bytes": 2**29,
        "history": invented_history(task, seed, scores[task.metrics[0]]),
        "device": {"device": "none", "name": "generated"},
        "versions": {},
        "code_version": "generated",
        "started": "2000-01-01T00:00:00+00:00",
        "finished": "2000-01-01T00:00:05+00:00",
    }
    ids = [f"validation/{i}" for i in range(len(labels))]
    rows = pd.DataFrame({"split": "validation", "example_id": ids, "label": labels, "prediction": predictions})
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "record.json", record)


def example_study(folder=None) -> Path:
    """Write a study with all that can go wrong: a collapsed, a failed and a broken run, and a task that never ran."""
    folder = Path(folder or tempfile.mkdtemp()) / "example"
    jobs = []
    for task in (*KNOWS, "qnli"):
        for seed in range(3):
            job = {"run": f"finetune.{task}.s{seed}", "step": "finetune", "task": task}
            jobs.append(job | {"encoder": "example-encoder", "seed": seed})
    plan = {"study": "example", "title": "Generated example: no model was trained", "jobs": jobs}
    write_json(folder / "plan.json", plan)
    for job in jobs[:-3]:
        write_example_run(folder / "runs" / job["run"], job["task"], job["seed"])
    cut, failed = (folder / "runs" / f"finetune.{name}.s2" / "record.json" for name in ("mrpc", "sts-b"))
    cut.write_text(cut.read_text()[:300])
    write_json(failed, read_json(failed) | {"status": "failed", "failure": {"reason": "out of memory", "cell": 7}})
    return folder
