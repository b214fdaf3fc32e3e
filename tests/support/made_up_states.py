"""A file of hidden states without an encoder."""

import numpy as np
import torch

from bertvision.data.batches import Tokens
from bertvision.states.interface import Origin
from bertvision.states.store import Writer, open_states


def made_up(examples=40, width=8, kind="tokens", dtype="fp16", seed=0, layers=3, longest=12):
    """(tokens, origin, values) without an encoder."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, examples)
    ids, ends = rng.integers(1, 99, lengths.sum()).astype(np.int32), np.cumsum(lengths)
    tokens = Tokens(ids, None, np.r_[0, ends], rng.integers(0, 2, examples), [f"train/{i}" for i in range(examples)], 0)
    vectors = len(ids) if kind == "tokens" else examples
    values = torch.from_numpy(rng.standard_normal((vectors, layers, width)).astype(np.float32))
    return tokens, Origin("made-up", "w", "t", width, tuple(range(layers)), kind, dtype), values


def write(path, tokens, origin, values):
    with Writer(path, tokens, origin) as writer:
        writer.append(range(len(tokens)), values)
    return open_states(path)
