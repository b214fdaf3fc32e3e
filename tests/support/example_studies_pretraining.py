"""An invented study of pre-training. Nothing in it was measured.

Three seeds of one pre-training of 400 steps, and SST-2 fine-tuned from its beginning, from step 100 and from its end.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bertvision.core.io import write_json
from bertvision.metrics.scores import score

STARTS = {  # step -> (title, checkpoint, how often the answer is known)
    "untrained": ("Not pre-trained", "steps/0", 0.4),
    "begun": ("100 steps", "steps/100", 0.55),
    "pretrained": ("400 steps", "model", 0.7),
}
STEPS = 400
EXAMPLES = 400


def write_run(folder, experiment, seed, **more):
    """A run's record."""
    record = {
        "schema": 1,
        "status": "done",
        "experiment": experiment,
        "encoder": "",
        "seed": seed,
        "protocol": "carved",
        "device": {"device": "none", "name": "generated"},
        "versions": {},
        "code_version": "generated",
        "peak_memory_bytes": 2**29,
        "seconds": {"train": 30.0, "total": 35.0},
    }
    write_json(folder / "record.json", record | more)


def history(seed):
    """Losses and accuracies while it learns, on held-out text at each fifth row."""
    rows = []
    for n in range(20, STEPS + 1, 20):
        row = {"step": n, "tokens": 4096 * n, "lr": 1e-3, "seconds": 0.5 * n, "tokens_per_second": 8192.0}
        row |= {"mlm_loss": 4 + 5 * np.exp(-n / 120) + 0.05 * seed, "mlm_accuracy": 0.3 - 0.3 * np.exp(-n / 150)}
        rows.append(row | {"nsp_loss": 0.69, "nsp_accuracy": 0.5 + n / 2000})
    for row in rows[4::5]:
        row |= {"held_out_mlm_loss": row["mlm_loss"] + 0.2, "held_out_mlm_accuracy": row["mlm_accuracy"] - 0.02}
    return rows


def write_pretraining(folder, seed):
    """A pre-training."""
    rows = history(seed)
    held_out = {name: rows[-1][f"held_out_{name}"] for name in ("mlm_loss", "mlm_accuracy")}
    write_run(
        folder,
        "pretrain",
        seed,
        step="pretrain",
        task=None,
        parameters={"corpus": "books", "steps": STEPS, "keep_steps": [0, 100]},
        metrics={},
        history=rows,
        tokens_per_second=8192.0,
        learned={"held_out": held_out | {"pseudo_perplexity": 80.0 + seed}},
        parameters_count={"total": 5e6},
        vocabulary_size=8000,
    )


def write_finetuning(folder, step, seed):
    """A fine-tuning from a checkpoint of the pre-training of the same seed."""
    _, checkpoint, known = STARTS[step]
    rng = np.random.default_rng([seed, len(step)])
    labels = np.random.default_rng(7).integers(0, 2, EXAMPLES)
    predictions = np.where(rng.random(EXAMPLES) < known, labels, rng.integers(0, 2, EXAMPLES))
    ids = [f"validation/{i}" for i in range(EXAMPLES)]
    rows = pd.DataFrame({"split": "validation", "example_id": ids, "label": labels, "prediction": predictions})
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "predictions.parquet", index=False)
    write_run(
        folder,
        "finetune",
        seed,
        step=step,
        task="sst-2",
        parameters={"finetune_dir": f"../pretrain.s{seed}", "checkpoint": checkpoint, "epochs": 3.0},
        metrics={"validation": score("accuracy", predictions, labels)},
        baselines={"validation": {"accuracy": 0.51}},
        examples={"train": 900, "validation": EXAMPLES},
        history=[{"step": 9, "loss": 0.3, "epoch": 3.0}],
        parameters_count={"total": 5e6, "trainable": 5e6},
    )


def example_pretraining(folder=None) -> Path:
    """Write the study into a folder, or into a new temporary one, and return its own folder."""
    folder, jobs = Path(folder or tempfile.mkdtemp()) / "example-pretraining", []
    for seed in range(3):
        write_pretraining(folder / "runs" / f"pretrain.s{seed}", seed)
        jobs.append({"run": f"pretrain.s{seed}", "step": "pretrain", "seed": seed})
        for step in STARTS:
            run = f"{step}.sst-2.s{seed}"
            write_finetuning(folder / "runs" / run, step, seed)
            jobs.append({"run": run, "step": step, "task": "sst-2", "encoder": "", "seed": seed})
    plan = {"study": "example-pretraining", "title": "Generated example: no model was trained", "jobs": jobs}
    write_json(folder / "plan.json", plan | {"titles": {step: title for step, (title, *_) in STARTS.items()}})
    return folder
