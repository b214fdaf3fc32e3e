"""What several processes do together, as a program for `accelerate launch`: FOLDER and alone, together, kill or resume.

With dropout off, a fine-tuning must be that of one process. With dropout on, it must not matter that it was killed."""

import os
import signal
import sys
from pathlib import Path

import torch

from bertvision import fit, load_encoder, load_task
from bertvision.core.distributed import is_main
from bertvision.core.io import write_json
from bertvision.data.batches import tokenise
from bertvision.data.splits import split
from bertvision.states.stream import extract

RECIPE = dict(precision="fp32", batch_size=10, accumulate=2, lr=1e-3, protocol="carved")


def encoder(task, dropout: bool):
    made = load_encoder("tiny-random", task, seed=0)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1 * dropout
    return made


def splits():
    """181 examples that train: the last batch of an epoch has one, which two processes cannot share."""
    found = split(load_task("toy-acceptability"), "carved", seed=0)
    found.train = found.train.select(range(181))
    return found


def learn(folder: Path, dropout: bool, on_step=None):
    data = splits()
    done = fit(
        encoder(data.task, dropout),
        data,
        epochs=5.3,
        evals_per_epoch=0.5,
        folder=folder,
        on_step=on_step,
        log_every=1,
        checkpoint_seconds=1e-6,
        **RECIPE,
    )
    if not is_main():
        return
    done.predictions.to_parquet(folder / "predictions.parquet")
    write_json(
        folder / "told.json",
        {"loss": done.history["loss"].tolist(), "metrics": done.metrics, "resumed_from": done.resumed_from},
    )


def killed(step, total, **_):
    if step == 23 and is_main():
        os.kill(os.getpid(), signal.SIGKILL)


def keep_states(folder: Path):
    data, bert = splits(), load_encoder("tiny-random", seed=0)
    for dtype in ("fp16", "int8"):
        extract(
            bert,
            tokenise(data.train, bert.tokenizer, 128),
            folder / f"{dtype}.h5",
            dtype=dtype,
            precision="fp32",
            chunk=7,
        )


if __name__ == "__main__":
    place, what = Path(sys.argv[1]), sys.argv[2]
    if what in ("alone", "together"):
        learn(place / "plain", dropout=False)
        keep_states(place)
    if what != "alone":
        learn(place / "dropped", dropout=True, on_step=killed if what == "kill" else None)
