"""The loop of our own against the field's reference: the same batches, the same seed, the same losses."""

import numpy as np
import pytest
import torch

STEPS, LR = 50, 1e-4


@pytest.fixture(scope="module")
def data():
    from bertvision import load_task, subset

    data = load_task("toy-sentiment")
    data.splits["train"] = subset(data["train"], 1000, seed=0)
    return data


def encoder(data):
    from bertvision import load_encoder

    return load_encoder("minilm-l6", data.task, seed=3)


def our_losses(data):
    from bertvision import fit, split

    splits = split(data)
    steps = -(-len(splits.train) // 16)
    result = fit(encoder(data), splits, epochs=1, lr=LR, warmup=0.1, precision="fp32", seed=3, log_every=1)
    assert result.steps == steps >= STEPS
    return splits, result.history.loss.to_numpy(), steps


def trainer_losses(data, splits, steps, folder):
    """Return the losses of `transformers.Trainer` on the batches of our loop, with dropout seeded where ours is."""
    import transformers as tf

    from bertvision.data.batches import Batches, tokenise

    enc, losses = encoder(data), []
    batches = list(Batches(tokenise(splits.train, enc.tokenizer, 128), 16, seed=3).epoch(0))

    class Peer(tf.Trainer):
        def get_train_dataloader(self):
            return batches

        def training_step(self, model, inputs, *args, **kwargs):
            if not losses:
                torch.manual_seed(3)
            loss = super().training_step(model, inputs, *args, **kwargs)
            losses.append(loss.item())
            return loss

    args = tf.TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=LR,
        weight_decay=0.01,
        warmup_steps=int(np.ceil(0.1 * steps)),
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        adam_epsilon=1e-8,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=3,
    )
    Peer(enc.model, args, train_dataset=[0] * len(splits.train)).train()
    return np.array(losses)


def test_loss_per_step_equals_the_trainers(data, tmp_path):
    splits, ours, steps = our_losses(data)
    theirs = trainer_losses(data, splits, steps, tmp_path)
    assert len(ours) == len(theirs) >= STEPS
    difference = np.abs(ours - theirs)[:STEPS]
    assert difference.max() < 1e-4, f"largest difference {difference.max():.2e} at step {difference.argmax() + 1}"
    assert ours[:5].mean() - ours[-5:].mean() > 0.05, "nothing was learnt, so equality would mean nothing"
