"""Tiny random checkpoints of encoder families, built once a test session."""

import tempfile
from functools import lru_cache
from pathlib import Path

from bertvision.conformance.families import build_family, find_family

ALWAYS = "bert"


@lru_cache
def _place() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="families-")


@lru_cache
def family_folder(name: str) -> Path:
    """The checkpoint of a family; tests must not write into it."""
    return build_family(Path(_place().name) / name.replace("/", "+"), name)


def masked_families() -> list:
    """Families with a masked language model, and the variants: encoders that are known without importing each class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    from bertvision.conformance.families import VARIANTS

    names = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) & set(MODEL_MAPPING_NAMES)
    return sorted(names | {name for name in VARIANTS if name.split("/")[0] in names})


def rotating_sample(n: int, turn: int) -> list:
    """Encoder families of one turn: BERT, and n others that move on with every turn until all had theirs."""
    names = [name for name in masked_families() if name != ALWAYS]
    order = [names[(turn * n + i) % len(names)] for i in range(len(names))]
    chosen = []
    for name in order:
        if len(chosen) < n and find_family(name).kind == "encoder":
            chosen.append(name)
    return [ALWAYS, *chosen]
