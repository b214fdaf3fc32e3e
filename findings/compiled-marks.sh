#!/usr/bin/env bash
# A mark at a function's entry under torch.compile: which way of marking breaks the graph, which one raises.
#
# Versions: torch 2.13.0, numpy 2.4.6, Python 3.11 (PYTHON=… chooses another). CPU; the backend only counts graphs.
#
# Behaviour. A tracer that writes "I ran" as a function's first statement changes what Dynamo can do with the function:
#  - one byte into a bytearray or an mmap: the function cannot be compiled with fullgraph=True, and without it one graph
#    becomes two;
#  - an item of a list, a module-level name: no break, one graph, the write is replayed after each
#    call, also under vmap and grad; but inside torch.utils.checkpoint fullgraph=True refuses it ("side effect");
#    an append or a count there, without fullgraph, counts the recomputation too: 2 for one call;
#  - a function attribute (`f.seen = 1`) breaks the graph as the byte does;
#  - an item of a numpy array is the odd one: it becomes part of the graph as a tensor write. Under vmap that is fine,
#    under torch.func.grad and under checkpoint it raises, and leaving out fullgraph does not help: a run that worked
#    without the mark now ends with an error;
#  - in a branch of torch.cond none of these marks is allowed, fullgraph or not.
#
# Output seen (number of graphs and what the mark held afterwards; fullgraph=True | without):
#   none:
#       plain      1 -            | 1 -
#       vmap       1 -            | 1 -
#       grad       1 -            | 1 -
#       checkpoint 1 -            | 1 -
#       cond       1 -            | 1 -
#   bytearray:
#       plain      Unsupported    | 2 [1]
#       vmap       Unsupported    | 1 [1]
#       grad       Unsupported    | 1 [1]
#       checkpoint Unsupported    | 1 [1]
#       cond       UncapturedHigh | UncapturedHigh
#   mmap:
#       plain      Unsupported    | 2 [1]
#       vmap       Unsupported    | 1 [1]
#       grad       Unsupported    | 1 [1]
#       checkpoint Unsupported    | 1 [1]
#       cond       UncapturedHigh | UncapturedHigh
#   list item:
#       plain      1 [1]          | 1 [1]
#       vmap       1 [1]          | 1 [1]
#       grad       1 [1]          | 1 [1]
#       checkpoint Unsupported    | 1 [1]
#       cond       UncapturedHigh | UncapturedHigh
#   list append:
#       plain      1 [1]          | 1 [1]
#       vmap       1 [1]          | 1 [1]
#       grad       1 [1]          | 1 [1]
#       checkpoint Unsupported    | 1 [1, 1]
#       cond       UncapturedHigh | UncapturedHigh
#   module name:
#       plain      1 [1]          | 1 [1]
#       vmap       1 [1]          | 1 [1]
#       grad       1 [1]          | 1 [1]
#       checkpoint Unsupported    | 1 [1]
#       cond       UncapturedHigh | UncapturedHigh
#   fn attribute:
#       plain      Unsupported    | 2 [1]
#       vmap       Unsupported    | 1 [1]
#       grad       Unsupported    | 1 [1]
#       checkpoint Unsupported    | 1 [1]
#       cond       UncapturedHigh | UncapturedHigh
#   numpy item:
#       plain      1 [1]          | 1 [1]
#       vmap       1 [1]          | 1 [1]
#       grad       AssertionError | AssertionError
#       checkpoint RuntimeError   | RuntimeError
#       cond       UncapturedHigh | UncapturedHigh
#
# Why it matters in an encoder lab: recording which functions a run executed must not change the run. A shared byte map
# survives forks, but a compiled encoder then has other graphs than the same encoder without marks, or does not compile.
# Leave the compiled functions unmarked, mark in a caller outside the compiled part, or use a list that is copied into
# the map later. A numpy map is the one choice that can turn a working training step into an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6

cat > "$work/marks.py" <<'PY'
import logging
import mmap
import sys
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

SOURCE = """
import torch
from torch.utils.checkpoint import checkpoint as keep_less

def layer(x):
    {mark}
    return torch.sin(x) * 2

def plain(x):
    return layer(x) + 1

def vmap(x):
    return torch.func.vmap(layer)(x) + 1

def grad(x):
    return torch.func.grad(lambda y: layer(y).sum())(x) + 1

def checkpoint(x):
    return keep_less(layer, x, use_reentrant=False) + 1

def cond(x):
    return torch.cond(x.sum() > 0, layer, layer, (x,)) + 1
"""
CASES = ["plain", "vmap", "grad", "checkpoint", "cond"]
MARKS = {
    "none": ("pass", lambda: None, lambda names: "-"),
    "bytearray": ("SEEN[0] = 1", lambda: bytearray(1), lambda names: list(names["SEEN"])),
    "mmap": ("SEEN[0] = 1", lambda: mmap.mmap(-1, 1), lambda names: list(names["SEEN"][:])),
    "list item": ("SEEN[0] = 1", lambda: [0], lambda names: names["SEEN"]),
    "list append": ("SEEN.append(1)", list, lambda names: names["SEEN"]),
    "module name": ("global SEEN; SEEN = 1", lambda: 0, lambda names: [names["SEEN"]]),
    "fn attribute": ("layer.seen = 1", lambda: None, lambda names: [getattr(names["layer"], "seen", 0)]),
    "numpy item": ("SEEN[0] = 1", lambda: np.zeros(1, np.uint8), lambda names: names["SEEN"].tolist()),
}
NO_COND = "UncapturedHigh"


def row(*cells):
    return dict(zip(CASES, [*cells, (NO_COND, NO_COND)]))


BROKEN = ("Unsupported", "1 [1]")
KEPT = ("1 [1]", "1 [1]")
EXPECTED = {
    "none": dict.fromkeys(CASES, ("1 -", "1 -")),
    "bytearray": row(("Unsupported", "2 [1]"), BROKEN, BROKEN, BROKEN),
    "mmap": row(("Unsupported", "2 [1]"), BROKEN, BROKEN, BROKEN),
    "list item": row(KEPT, KEPT, KEPT, BROKEN),
    "list append": row(KEPT, KEPT, KEPT, ("Unsupported", "1 [1, 1]")),
    "module name": row(KEPT, KEPT, KEPT, BROKEN),
    "fn attribute": row(("Unsupported", "2 [1]"), BROKEN, BROKEN, BROKEN),
    "numpy item": row(KEPT, KEPT, ("AssertionError",) * 2, ("RuntimeError",) * 2),
}


def outcome(mark, make, read, case, fullgraph):
    names = {"SEEN": make()}
    exec(compile(SOURCE.format(mark=mark), "<marked>", "exec"), names)
    torch._dynamo.reset()
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    try:
        result = torch.compile(names[case], backend=count, fullgraph=fullgraph)(torch.ones(3, requires_grad=True))
        result.sum().backward()
    except Exception as error:
        return type(error).__name__[:14]
    return f"{len(graphs)} {read(names)}"


changed = 0
for name, (mark, make, read) in MARKS.items():
    seen = {case: tuple(outcome(mark, make, read, case, whole) for whole in (True, False)) for case in CASES}
    print(f"{name}:")
    for case in CASES:
        print(f"    {case:10} {seen[case][0]:14} | {seen[case][1]}")
    for case in CASES:
        if seen[case] != EXPECTED[name][case]:
            changed += 1
            print(f"  changed: {name}, {case}: expected {EXPECTED[name][case]}")
sys.exit(bool(changed))
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/marks.py"
