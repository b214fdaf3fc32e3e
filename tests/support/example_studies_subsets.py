"""An invented study of subsets, for tests of its report: nothing in it was measured.

Four strategies with 5, 10, 20 and 40 % of a pool of 900, all of it as the common right end, three seeds; *random* once
more with a fixed number of steps; a sweep of frozen parts. HANS has refused the smallest random run of seed 2, one run
has failed, one was never started.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bertvision.core.io import read_json, write_json
from bertvision.reporting.subset_scores import HANS_LABELS, HEURISTICS, STRATEGIES

POOL, ROWS, LABELS = 900, 300, ("entailment", "neutral", "contradiction")
BUDGETS = (0.05, 0.1, 0.2, 0.4)
AHEAD = {"random": 0.0, "clusters": -0.13, "centroids": -0.02, "diverse": 0.10}  # at 5 %
FROZEN = {0: 0.0, -2: 0.0, 2: 0.01, 4: 0.05, -1: 0.22}  # how much a frozen part costs
GRID = {"task": "mnli", "encoder": "example-encoder"}
ENVIRONMENT = {
    "device": {"device": "none", "name": "generated"},
    "versions": {},
    "code_version": "generated",
    "started": "2000-01-01T00:00:00+00:00",
}


def _knows(strategy, fraction, arm, freeze):
    """How often a model is right: more with more data, less so with a fixed number of steps or with much frozen."""
    size = np.log(fraction * 20) / np.log(20)  # 0 at 5 %, 1 at 100 %
    steps = 0.12 * (1 - size) if arm == "steps" else 0.0
    return 0.48 + 0.30 * size + steps + AHEAD[strategy] * (1 - size) ** 1.5 - FROZEN[freeze]


def _hans(knows, rng):
    """(summary, predictions) on 300 pairs: overlap is taken for entailment, a little less so by a better model."""
    rows, accuracies = [], {h: {} for h in HEURISTICS}
    for i, h in enumerate(HEURISTICS):
        for label, name in enumerate(HANS_LABELS):
            right = rng.random(50) < (0.97 - 0.02 * i if label == 0 else max(0.0, 0.5 * (knows - 0.45) - 0.03 * i))
            accuracies[h][name] = float(right.mean())
            ids = [f"hans/{h}/{name}/{n}" for n in range(50)]
            prediction = np.where(right, label, 1 - label)
            rows.append(pd.DataFrame({"example_id": ids, "label": label, "prediction": prediction}))
    subcases = {
        f"{h[0]}{'en'[n]}_{k}": accuracies[h][name]
        for h in HEURISTICS
        for n, name in enumerate(HANS_LABELS)
        for k in range(5)
    }
    summary = {"examples": 300, "heuristics": accuracies, "subcases": subcases, "refused": ""}
    return summary, pd.concat(rows).assign(split="hans")


def _history(final, steps):
    rows = [
        {
            "step": n,
            "epoch": 3 * n / steps,
            "loss": 1.1 - 0.4 * n / steps,
            "lr": 1e-4 * (1 - n / steps),
            "seconds": n / 50,
        }
        for n in range(1, steps + 1)
    ]
    for k in range(1, 7):
        gained = (final - 0.34) * (1 - np.exp(-0.6 * k)) / (1 - np.exp(-3.6))
        rows[max(0, k * steps // 6 - 1)]["selection_accuracy"] = 0.34 + gained
    return rows


def _answers(knows, seed, rng):
    """Predictions on parts whose labels are the same for all; seeds differ a little in what they know."""
    parts, knows = [], knows + (seed - 1) * 0.006
    for split, n in (("selection", 100), ("validation_matched", ROWS)):
        label = np.random.default_rng(n).integers(0, 3, n)
        right = np.random.default_rng([n, 1]).random(n) < knows  # the luck of an example is the same for all runs
        right ^= rng.random(n) < 0.01
        ids = [f"{split}/{i}" for i in range(n)]
        prediction = np.where(right, label, (label + 1) % 3)
        parts.append(pd.DataFrame({"split": split, "example_id": ids, "label": label, "prediction": prediction}))
    return parts


def _record(run, step, strategy, fraction, arm, freeze, seed):
    """What a record says before anything is scored."""
    steps = 60 if arm == "steps" else max(6, int(3 * POOL * fraction / 16))
    cost = {"random": 0.01, "clusters": 9.0, "centroids": 9.5, "diverse": 9.2}[strategy] + seed / 100
    size = round(POOL * fraction)
    return {
        "schema": 1,
        "status": "done",
        "experiment": "train_subset",
        "step": step,
        **GRID,
        "seed": seed,
        "protocol": "carved",
        "parameters": {
            "strategy": strategy,
            "data_pct": fraction,
            "data_count": 0,
            "epochs": 3.0,
            "steps": 60 if arm == "steps" else 0,
            "freeze": freeze,
            "batch_size": 16,
            "lr": 1e-4,
            "max_length": 64,
        },
        "subset": {
            "strategy": strategy,
            "examples": size,
            "pool": POOL,
            "fraction": fraction,
            "arm": arm,
            "seconds": cost,
            "labels": dict.fromkeys(LABELS, 1 / 3),
        },
        "collapsed": None,
        "examples": {"train": size, "selection": 100, "validation_matched": ROWS},
        "seconds": {"load": 0.5, "train": 0.2 * steps, "total": 1 + 0.2 * steps},
        "parameters_count": {"total": 1000, "trainable": 300 if freeze else 1000, "embeddings": 400},
        **ENVIRONMENT,
        "finished": "2000-01-01T00:00:05+00:00",
        "steps": steps,
    }


def _run(folder, step, strategy, fraction, arm, freeze, seed):
    """Write the record and the predictions of one run."""
    record = _record(folder.name, step, strategy, fraction, arm, freeze, seed)
    knows = _knows(strategy, fraction, arm, freeze)
    rng = np.random.default_rng([seed, int(1000 * fraction), STRATEGIES.index(strategy), arm == "steps", freeze + 5])
    parts = _answers(knows, seed, rng)
    metrics, trivial = {}, {}
    for part in parts:
        split = part["split"].iloc[0]
        metrics[split] = {"accuracy": float((part["label"] == part["prediction"]).mean())}
        trivial[split] = {"accuracy": float(part["label"].value_counts(normalize=True).iloc[0])}
    hans, rows = _hans(knows, rng)
    if (strategy, fraction, arm, freeze, seed) == ("random", 0.05, "epochs", 0, 2):
        accuracy = metrics["validation_matched"]["accuracy"]
        refused = f"accuracy {accuracy:.3f} on MNLI is near chance: HANS would say nothing"
        hans = {"examples": 0, "heuristics": {}, "subcases": {}, "refused": refused}
    else:
        parts.append(rows)
        metrics["hans"] = {"accuracy": float((rows["label"] == rows["prediction"]).mean())}
        trivial["hans"] = {"accuracy": 0.5}
    record |= {"metrics": metrics, "baselines": trivial, "hans": hans}
    record |= {"history": _history(metrics["selection"]["accuracy"], record.pop("steps"))}
    folder.mkdir(parents=True)
    columns = ["split", "example_id", "label", "prediction"]
    pd.concat(parts)[columns].to_parquet(folder / "predictions.parquet", index=False)
    write_json(folder / "record.json", record)


CHOICES = {  # covered clusters, distance, unevenness of the labels
    "clusters": (0.35, 0.22, 0.45),
    "centroids": (0.9, 0.34, 0.04),
    "diverse": (1.0, 0.30, 0.05),
    "random": (0.8, 0.33, 0.05),
}
WORDS = (
    "know think really",
    "government policy state",
    "yeah uh right",
    "city old church",
    "rate cost year",
    "case legal law",
)


def _selection(strategy, fraction):
    covered, near, uneven = CHOICES[strategy]
    return {
        "strategy": strategy,
        "fraction": fraction,
        "examples": round(POOL * fraction),
        "labels": dict(zip(LABELS, (1 / 3 + uneven / 3, 1 / 3, 1 / 3 - uneven / 3))),
        "clusters": min(1.0, covered * (0.5 + fraction)),
        "distance": near * (1 - fraction),
        "seconds": 0.01 if strategy == "random" else 9.2,
    }


def _choice(folder, seed):
    """Write the record and the map of one selection."""
    rng = np.random.default_rng(seed)
    overlap = [
        {"fraction": f, "a": a, "b": b, "jaccard": f / (2 - f) * (3.0 if {a, b} == {"centroids", "diverse"} else 1.0)}
        for f in BUDGETS
        for i, a in enumerate(STRATEGIES)
        for b in STRATEGIES[i + 1 :]
    ]
    cluster = rng.integers(0, 6, POOL)
    angle = cluster * np.pi / 3
    points = {
        "x": 3 * np.cos(angle) + rng.normal(0, 0.8, POOL),
        "y": 2 * np.sin(angle) + rng.normal(0, 0.8, POOL),
        "cluster": cluster,
        "label": rng.integers(0, 3, POOL),
    }
    folder.mkdir(parents=True)
    pd.DataFrame(points).to_parquet(folder / "map.parquet", index=False)
    record = {
        "schema": 1,
        "status": "done",
        "experiment": "select_examples",
        "step": "select",
        **GRID,
        "seed": seed,
        "protocol": "carved",
        "parameters": {},
        "metrics": {},
        "pool": POOL,
        "vectors": {"encoder": "example-encoder", "side": "pretrained", "layer": 6, "kind": "mean"},
        "clusters": {
            "method": "kmeans",
            "metric": "cosine",
            "number": 6,
            "noise": 0,
            "silhouette": 0.03,
            "sizes": {"smallest": 100, "median": 150, "largest": 250},
            "about": [{"cluster": c, "size": 250 - 30 * c, "words": w.split()} for c, w in enumerate(WORDS)],
        },
        "selections": [_selection(s, f) for f in BUDGETS for s in STRATEGIES],
        "overlap": overlap,
        "seconds": {"total": 12.0},
        "history": None,
        **ENVIRONMENT,
        "finished": "2000-01-01T00:00:12+00:00",
    }
    write_json(folder / "record.json", record)


def _jobs():
    """(run, step, strategy, fraction, arm, freeze, seed) of the trainings."""
    grid = [("train", s, f, "epochs", 0) for s in STRATEGIES for f in BUDGETS]
    grid += [("all", "random", 1.0, "epochs", 0)]
    grid += [("steps", "random", f, "steps", 0) for f in (*BUDGETS, 1.0)]
    grid += [("frozen", "random", 0.2, "epochs", n) for n in (-2, 2, 4, -1)]
    middle = {"train": ".{s}.data_pct-{f:g}", "all": "", "steps": ".data_pct-{f:g}", "frozen": ".freeze-{n}"}
    return [
        (f"{step}.mnli.example-encoder{middle[step].format(s=s, f=f, n=n)}.s{seed}", step, s, f, arm, n, seed)
        for step, s, f, arm, n in grid
        for seed in range(3)
    ]


def example_subsets(folder=None):
    """Write the study into a folder, or into a new temporary one, and return its own folder."""
    folder = Path(folder or tempfile.mkdtemp()) / "example-subsets"
    jobs = [
        {"run": f"select.mnli.example-encoder.s{seed}", "step": "select", **GRID, "seed": seed} for seed in range(3)
    ]
    for job in jobs:
        _choice(folder / "runs" / job["run"], job["seed"])
    for run, step, strategy, fraction, arm, freeze, seed in _jobs():
        swept = {
            "train": {"strategy": strategy, "data_pct": fraction},
            "steps": {"data_pct": fraction},
            "frozen": {"freeze": freeze},
        }
        jobs.append({"run": run, "step": step, **GRID, "seed": seed} | swept.get(step, {}))
        if (strategy, fraction, seed) != ("clusters", 0.1, 2):
            _run(folder / "runs" / run, step, strategy, fraction, arm, freeze, seed)
    failed = folder / "runs" / "train.mnli.example-encoder.diverse.data_pct-0.4.s1" / "record.json"
    write_json(failed, read_json(failed) | {"status": "failed", "failure": {"reason": "out of memory", "cell": 7}})
    titles = {"train": "Subsets", "all": "The whole pool", "steps": "A fixed number of steps", "frozen": "Frozen parts"}
    title = "Generated example: no model was trained"
    write_json(folder / "plan.json", {"study": "example-subsets", "title": title, "jobs": jobs, "titles": titles})
    return folder
