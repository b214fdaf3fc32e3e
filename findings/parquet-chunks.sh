#!/usr/bin/env bash
# Two equal pandas frames, two different parquet files: pandas 3's text columns remember how they were concatenated.
#
# Versions: pandas 3.1.1, pyarrow 26.0.1, numpy 2.4.6 (Python 3.11 or later).
#
# Behaviour. In pandas 3 a column of text is an Arrow array. `pd.concat` keeps each part as a chunk of its own, and the
# chunks live on through copy, reset_index and even through sort_values and an iloc with a list of rows. Parquet's
# writer asks once per batch, and a chunk's end ends a batch, whether the column's dictionary has grown past 1 MiB; so
# the row where it stops using the dictionary depends on the chunks. Above that size (150,000 ids of ten characters
# here) the same rows give another file for each way of collecting them: other bytes, other length. Below it, and for
# the number columns of the same frame (numpy arrays, always one chunk), the bytes are equal.
#  - assert_frame_equal and equals say "equal"; reading gives the same rows;
#  - use_content_defined_chunking=True, the option for stable pages, does NOT cure it;
#  - use_dictionary=False cures it (and is 9 % smaller here), and so does a larger dictionary_pagesize_limit;
#  - a round trip through parquet cures it by accident: both frames come back in the same number of chunks.
#
# Output seen (the whole frame, the same frame as a concat of parts of 1000 rows, and of 777 rows):
#   chunks 1 150 194
#   default: 3 different files
#   content-defined chunking: 3 different files
#   no dictionary: 1 different files
#   large dictionary: 1 different files
#   column example_id: 3 different files
#   column score: 1 different files
#   column label: 1 different files
#   after copy: 3 different files
#   after reset_index: 3 different files
#   after sort_values: 3 different files
#   after iloc: 3 different files
#   after round trip: 1 different files
#   first 50,000 rows: 1 different files
#   bytes: 2403934 2398029 2404064 without a dictionary: 2182893 2182893 2182893
#
# Why it matters in an encoder lab: predictions are collected batch by batch, process by process. A comparison of
# predictions.parquet by its digest (replay to the bit, content-addressed artefacts, "is this cache unchanged") says
# "different" for equal results as soon as another batch size or number of workers collected them, and only on the large
# tasks: every test on a small one passes. Compare values, or write with use_dictionary=False.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6

cat > "$work/chunks.py" <<'PY'
import io
import sys

import numpy as np
import pandas as pd

ROWS = 150_000
rng = np.random.default_rng(0)
whole = pd.DataFrame({
    "example_id": [f"dev-{row:06d}" for row in range(ROWS)],
    "score": rng.random(ROWS),
    "label": rng.integers(0, 3, ROWS),
})


def glued(size):
    return pd.concat([whole.iloc[start:start + size] for start in range(0, ROWS, size)])


def written(frame, **options):
    file = io.BytesIO()
    frame.to_parquet(file, **options)
    return file.getvalue()


def read_back(frame):
    return pd.read_parquet(io.BytesIO(written(frame)))


frames = [whole, glued(1000), glued(777)]
for other in frames[1:]:
    pd.testing.assert_frame_equal(whole, other)
    pd.testing.assert_frame_equal(read_back(whole), read_back(other))


def different(change=lambda frame: frame, **options):
    return len({written(change(frame), **options) for frame in frames})


def lengths(**options):
    return " ".join(str(len(written(frame, **options))) for frame in frames)


chunks = [frame["example_id"].array._pa_array.num_chunks for frame in frames]
seen = {
    "default": different(),
    "content-defined chunking": different(use_content_defined_chunking=True),
    "no dictionary": different(use_dictionary=False),
    "large dictionary": different(dictionary_pagesize_limit=1 << 27),
    "column example_id": different(lambda frame: frame[["example_id"]]),
    "column score": different(lambda frame: frame[["score"]]),
    "column label": different(lambda frame: frame[["label"]]),
    "after copy": different(lambda frame: frame.copy()),
    "after reset_index": different(lambda frame: frame.reset_index(drop=True)),
    "after sort_values": different(lambda frame: frame.sort_values("example_id")),
    "after iloc": different(lambda frame: frame.iloc[np.arange(ROWS)]),
    "after round trip": different(read_back),
    "first 50,000 rows": different(lambda frame: frame[:50_000]),
}
print("chunks", *chunks)
for what, count in seen.items():
    print(f"{what}: {count} different files")
print("bytes:", lengths(), "without a dictionary:", lengths(use_dictionary=False))
cured = {"no dictionary", "large dictionary", "column score", "column label", "after round trip", "first 50,000 rows"}
expected = {what: 1 if what in cured else 3 for what in seen}
for what in seen:
    if seen[what] != expected[what]:
        print(f"changed: {what}: expected {expected[what]}")
sys.exit(seen != expected or chunks != [1, 150, 194])
PY
"$work/venv/bin/python" "$work/chunks.py"
