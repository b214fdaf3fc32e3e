"""What only a CUDA device can show; skipped elsewhere, with the reason."""

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch


def losses(precision, **kwargs):
    from bertvision import fit, load_encoder, load_task, subset

    data = load_task("toy-sentiment")
    data.splits["train"] = subset(data["train"], 512, seed=0)
    encoder = load_encoder("tiny-random", data.task)
    for module in encoder.model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    encoder.model.config.attention_probs_dropout_prob = 0.0
    result = fit(encoder, data, epochs=1, lr=1e-3, precision=precision, log_every=1, **kwargs)
    assert encoder.model.device.type == "cuda" and result.precision == precision
    return result.history.loss.to_numpy()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_single_precision_learns(cuda, precision):
    if precision == "bf16" and not cuda.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    single, half = losses("fp32"), losses(precision)
    assert np.isfinite(half).all() and np.abs(single - half).mean() < 0.02


def test_peak_memory_is_the_gpus(cuda):
    from bertvision.core.machine import device_report, peak_memory

    losses("fp32")
    assert 0 < peak_memory() <= cuda.cuda.get_device_properties(0).total_memory
    assert device_report()["device"] == "cuda"
