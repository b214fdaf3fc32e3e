"""A study of probes with invented numbers; nothing in it was measured.

An encoder of six blocks, two tasks, three sides, three seeds. CoLA was also probed after half an epoch, one run has
failed, and STS-B was never started.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bertvision.core.io import write_json
from bertvision.metrics.scores import score
from bertvision.reporting.layer_scores import SIDES
from bertvision.reporting.results import scored_columns

KNOWS = {  # (task, side) -> share that the lowest layer knows, rise, layer of the rise
    ("cola", "pretrained"): (0.05, 0.30, 2.5),
    ("cola", "fine-tuned"): (0.05, 0.55, 3.5),
    ("cola", "random"): (0.06, 0.0, 3),
    ("squad2", "pretrained"): (0.02, 0.10, 4),
    ("squad2", "fine-tuned"): (0.02, 0.75, 3.5),
    ("squad2", "random"): (0.01, 0.0, 3),
}
KINDS = {"pretrained": None, "half": 0.5, "fine-tuned": None, "random": None}  # step -> epochs of fine-tuning
STATES, ROWS = 7, 300  # of the encoder; examples
COMMON = {"schema": 1, "status": "done", "experiment": "probe_layers", "encoder": "example-encoder"}
TIMES = {"started": "2000-01-01T00:00:00+00:00", "finished": "2000-01-01T00:00:05+00:00"}


def known_share(task, side, epoch, layer, through):
    """How often a probe knows the answer. The last block gives back a little of it, a mix does not."""
    low, gain, where = KNOWS[task, side]
    gain = gain if epoch is None or epoch >= 1 else 0.6 * gain
    rise = lambda n: low + gain / (1 + np.exp(-2 * (n - where))) - 0.04 * (n == STATES - 1 and side == "pretrained")
    return rise(layer) if through == "layer" else max(rise(n) for n in range(layer + 1))


def answers(task, knows, rng):
    """Predictions of one probe, in the form in which runs leave them; labels are the same for all."""
    luck = np.random.default_rng(1)
    label = (luck.random(ROWS) < 0.5).astype(int)
    known = rng.random(ROWS) < knows
    rows = {"split": "validation", "example_id": [f"validation/{i}" for i in range(ROWS)], "label": label}
    if task == "cola":
        return pd.DataFrame(rows | {"prediction": np.where(known, label, rng.random(ROWS) < 0.7).astype(int)})
    alarm = rng.random(ROWS) < 0.4 * np.sin(np.pi * min(1, knows))  # a probe that knows half of it answers too often
    prediction = np.where(label == 1, known | alarm, alarm & ~known).astype(int)
    right = np.where(label == 1, known, prediction == 0).astype(float)
    part = np.where((label == 1) & (prediction == 1) & ~known, 0.2, 0)
    scored = {"prediction": prediction, "exact_match": right, "answer_f1": right + part, "null_odds": 0.0}
    return pd.DataFrame(rows | scored)


def example_probe(task, side, epoch, layer, through, seed):
    """Variant and predictions of one probe."""
    knows = known_share(task, side, epoch, layer, through)
    rng = np.random.default_rng([seed, layer, SIDES.index(side), through == "mix", int(10 * (epoch or 0))])
    rows = answers(task, knows, rng)
    metrics = ("matthews",) if task == "cola" else ("answer_f1", "exact_match")
    found = {m: score(m, *scored_columns(m, rows))[m] for m in metrics}
    probe = {"layer": layer, "through": through, "control": None}
    if through == "layer":
        control = dict.fromkeys(metrics, 0.08 + 0.02 * rng.random() - 0.01 * layer)
        code = {"bits": 300 / (1 + knows), "uniform": 300.0, "compression": 1 + knows}
        probe |= {"control": {"validation": control}, **code}
    name = f"{through}-{layer}:{'mean' if task == 'cola' else 'each'}"
    variant = {"variant": name, "seed": seed, "metrics": {"validation": found}, "parameters": 770, "probe": probe}
    return variant, rows.assign(variant=name)


def example_cka(side):
    """Similarity to the pretrained states: fine-tuning changes the last ones."""
    if side == "pretrained":
        return None
    kept = 1 - 0.7 * (np.arange(STATES) / (STATES - 1)) ** 2 if side == "fine-tuned" else np.full(STATES, 0.1)
    return (np.exp(-np.abs(np.subtract.outer(range(STATES), range(STATES))) / 4) * kept).tolist()


def write_run(folder, task, side, epoch, seed):
    """Write the record and the predictions of one run of all probes."""
    places = [(layer, through) for through in ("layer", "mix") for layer in range(STATES)]
    made = [example_probe(task, side, epoch, *place, seed) for place in places]
    silent = float((made[0][1]["label"] == 0).mean())
    questions = {"answer_f1": silent, "exact_match": silent, "has_answer_f1": 0.0}
    folder.mkdir(parents=True)
    pd.concat([rows for _, rows in made]).to_parquet(folder / "predictions.parquet", index=False)
    record = COMMON | {"step": folder.name.partition(".")[0], "task": task, "seed": seed, "protocol": "carved"}
    record |= {"parameters": {"side": side, "epochs": 3.0, "batch_size": 16}, "metrics": {}}
    record |= {"side": side, "epoch": epoch, "layers": STATES, "cka": example_cka(side)}
    record |= {"variants": [variant for variant, _ in made], "collapsed": None, "history": None}
    record |= {"baselines": {"validation": {"matthews": 0.0} if task == "cola" else questions}}
    record |= {
        "examples": {"train": 900, "selection": 100, "validation": ROWS},
        "seconds": {"train": 3.0, "total": 4.5},
    }
    record |= {"device": {"device": "none", "name": "generated"}, "versions": {}, "code_version": "generated"}
    write_json(folder / "record.json", record | TIMES)


def example_probes(folder=None) -> Path:
    """Write the study into a folder, or a new temporary one; returns the folder of the study."""
    folder, jobs = Path(folder or tempfile.mkdtemp()) / "example-probes", []
    for task in ("cola", "squad2", "sts-b"):
        for (step, epoch), seed in ((kind, seed) for kind in KINDS.items() for seed in range(3)):
            if (step == "half" and task != "cola") or (task == "sts-b" and step != "pretrained"):
                continue
            run = f"{step}.{task}.s{seed}"
            jobs.append({"run": run, "step": step, "task": task, "encoder": "example-encoder", "seed": seed})
            if task != "sts-b":
                write_run(folder / "runs" / run, task, "fine-tuned" if epoch else step, epoch, seed)
    failed = COMMON | {"status": "failed", "failure": {"reason": "out of memory", "cell": 7}, "task": "squad2"}
    path = folder / "runs" / "random.squad2.s2" / "record.json"
    write_json(path, json.loads(path.read_text()) | failed)
    about = {"study": "example-probes", "title": "Generated example: no encoder was probed"}
    write_json(folder / "plan.json", about | {"jobs": jobs, "titles": {"half": "fine-tuned, half an epoch"}})
    return folder
