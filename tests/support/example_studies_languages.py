"""An invented study of languages. Nothing in it was measured.

Two encoders are tuned on English, of which one reads only Latin letters, and one is tuned on Chinese; three seeds.
One run has never started.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bertvision.core.io import write_json
from bertvision.data.tasks import XNLI_LANGUAGES
from bertvision.metrics.statistics import collapse

UNKNOWN = {"zh": 0.63, "th": 0.55, "hi": 0.04}  # of the English encoder
SPELLED = ("ru", "bg", "el", "ar")
ACCURACY = {  # encoder -> expected accuracy by language
    "example-english": {code: 0.34 for code in XNLI_LANGUAGES} | {"en": 0.62, "de": 0.42, "es": 0.42, "fr": 0.42},
    "example-multilingual": {code: 0.6 for code in XNLI_LANGUAGES} | {"en": 0.72},
}
PAIRS = 300


def answers(accuracy, seed, split, language=""):
    """Predictions that differ between the seeds in one example of fifty."""
    labels = np.arange(PAIRS) % 3
    common = np.random.default_rng([*language.encode(), 1])
    own = np.random.default_rng([seed, *language.encode()])
    predictions = np.where(common.random(PAIRS) < (accuracy - 1 / 3) * 1.5, labels, common.integers(0, 3, PAIRS))
    predictions = np.where(own.random(PAIRS) < 0.02, own.integers(0, 3, PAIRS), predictions)
    ids = [f"test/{i}" for i in range(PAIRS)]
    rows = pd.DataFrame({"split": split, "example_id": ids, "label": labels, "prediction": predictions})
    return rows.assign(language=language) if language else rows


def write_run(folder, rows, step, task, encoder, seed, **more):
    """A run's record and predictions, and its job in the plan."""
    run = f"{step}.{task}.{encoder}.s{seed}"
    place = folder / "runs" / run
    place.mkdir(parents=True)
    rows.to_parquet(place / "predictions.parquet", index=False)
    accuracy = {split: float((g["label"] == g["prediction"]).mean()) for split, g in rows.groupby("split", sort=False)}
    record = {
        "schema": 1,
        "status": "done",
        "experiment": step,
        "step": step,
        "task": task,
        "encoder": encoder,
        "seed": seed,
        "protocol": "carved",
        "parameters": {"max_length": 128},
        "collapsed": None,
        "seconds": {"evaluate": 60.0, "total": 66.0},
        "peak_memory_bytes": 2**29,
        "history": None,
        "device": {"device": "none", "name": "generated"},
        "versions": {},
        "code_version": "generated",
        "metrics": {split: {"accuracy": value} for split, value in accuracy.items()},
        "baselines": {split: {"accuracy": 1 / 3} for split in accuracy},
        "examples": dict.fromkeys(accuracy, PAIRS),
    }
    write_json(place / "record.json", record | more)


def counts(encoder, code, rows):
    """What a record says of one language."""
    english = encoder == "example-english"
    return {
        "pairs": PAIRS,
        "of": 5010,
        "unknown": UNKNOWN.get(code, 0.0) * english,
        "tokens": 38.0 + 70.0 * (english and code in SPELLED),
        "cut": 0,
        "collapsed": collapse(rows["prediction"], rows["label"]),
    }


def example_languages(folder=None) -> Path:
    """Write the study into a folder, or into a new temporary one, and return its own folder."""
    folder, jobs = Path(folder or tempfile.mkdtemp()) / "example-languages", []
    for encoder, accuracy in ACCURACY.items():
        for seed in range(3):
            parts = {code: answers(accuracy[code], seed, f"test/{code}", code) for code in XNLI_LANGUAGES}
            trained = {"task": "mnli", "split": "validation_matched", "trivial": 0.354}
            trained |= {"accuracy": accuracy["en"] + 0.01, "run": f"finetune.mnli.{encoder}.s{seed}"}
            about = {"languages": {code: counts(encoder, code, rows) for code, rows in parts.items()}}
            write_run(folder, pd.concat(parts.values()), "zero-shot", "mnli", encoder, seed, **about, trained=trained)
            jobs.append({"step": "zero-shot", "task": "mnli", "encoder": encoder, "seed": seed})
    for seed in range(3):
        jobs.append({"step": "translate-train", "task": "xnli-zh", "encoder": "example-chinese", "seed": seed})
        if seed < 2:
            write_run(folder, answers(0.75, seed, "test"), "translate-train", "xnli-zh", "example-chinese", seed)
    named = [{"run": f"{job['step']}.{job['task']}.{job['encoder']}.s{job['seed']}"} | job for job in jobs]
    titles = {"zero-shot": "Zero-shot from English", "translate-train": "Translate-train"}
    plan = {"study": "example-languages", "title": "Generated example: no model was trained"}
    write_json(folder / "plan.json", plan | {"jobs": named, "titles": titles})
    return folder
