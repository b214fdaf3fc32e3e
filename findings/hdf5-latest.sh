#!/usr/bin/env bash
# libver="latest" of HDF5 2.0: an older h5py opens the store and lists all names, and only its compressed parts fail.
#
# Versions: h5py 3.12.1 (HDF5 1.14.4), 3.15.1 (HDF5 1.14.6), 3.16.0 (HDF5 2.0.0), numpy 2.4.6.
#
# Behaviour. "latest" is not a version: it means the newest format that the installed library can write.
#  - Written by h5py 3.16.0, a dataset that is chunked AND filtered (gzip, lzf, fletcher32) gets a layout message that
#    HDF5 1.14 does not know. Contiguous, chunked but unfiltered, resizable and text datasets of the same file
#    stay readable. The older h5py opens the file, lists its names, and fails when it touches such a dataset, with a
#    KeyError for a name that is there. libver="v114" in 3.16.0 writes a file that the older ones read whole.
#  - Bytes: with the default libver the three give one and the same file, byte for byte, now and a second later. With
#    "latest" h5py 3.12.1 gives another file each second although track_times=False is set for every dataset: its
#    groups, the root too, then hold times, and its create_group has no track_times; 3.15.1 and 3.16.0 write no times.
#
# Output seen (the long lines broken in two):
#   h5py 3.12.1: default repeats True, latest repeats False
#   h5py 3.15.1: default repeats True, latest repeats True
#   h5py 3.16.0: default repeats True, latest repeats True
#   different files over the three: default 1, latest 3
#   3.16.0 latest read by 3.12.1: contiguous ok, chunked ok, resizable ok, text ok,
#     gzip KeyError, lzf KeyError, fletcher32 KeyError
#   3.16.0 latest read by 3.15.1: contiguous ok, chunked ok, resizable ok, text ok,
#     gzip KeyError, lzf KeyError, fletcher32 KeyError
#   3.16.0 v114 read by 3.15.1: contiguous ok, chunked ok, resizable ok, text ok,
#     gzip ok, lzf ok, fletcher32 ok
#   3.16.0 latest read by 3.16.0: contiguous ok, chunked ok, resizable ok, text ok,
#     gzip ok, lzf ok, fletcher32 ok
#
# Why it matters in an encoder lab: hidden states are written on one machine and read on another, and a check that opens
# the file and looks at its names passes. A store whose big contiguous dataset reads while its small compressed tables
# do not looks like a damaged file. Name the version ("v110", "v114"), or leave the default; and compare stores by their
# digest only where the default libver, or one and the same h5py from 3.15 on, wrote both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check numpy==2.4.6
VERSIONS="3.12.1 3.15.1 3.16.0"
for version in $VERSIONS; do
    "$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check --no-deps \
        --target "$work/h5py-$version" "h5py==$version"
done

cat > "$work/write.py" <<'PY'
import hashlib
import json
import sys
import time

import h5py
import numpy as np

values = np.arange(1000)
KINDS = {
    "contiguous": {},
    "chunked": {"chunks": (100,)},
    "resizable": {"chunks": (100,), "maxshape": (None,)},
    "gzip": {"chunks": (100,), "compression": "gzip"},
    "lzf": {"chunks": (100,), "compression": "lzf"},
    "fletcher32": {"chunks": (100,), "fletcher32": True},
}


def digest(path, libver):
    with h5py.File(path, "w", libver=libver) as file:
        for name, options in KINDS.items():
            file.create_dataset(name, data=values, track_times=False, **options)
        file.create_dataset("text", data=["a", "b"], track_times=False)
        file.create_group("layers").attrs["encoder"] = "some encoder"
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


seen = {"version": h5py.__version__}
for libver in [None, "latest", "v114"]:
    first = digest(f"{h5py.__version__}-{libver}.h5", libver)
    time.sleep(1.1)
    seen[str(libver)] = [first, first == digest("again.h5", libver)]
json.dump(seen, sys.stdout)
PY
cat > "$work/read.py" <<'PY'
import json
import sys

import h5py

seen = {}
with h5py.File(sys.argv[1]) as file:
    assert len(file) == 8, list(file)
    for name in ["contiguous", "chunked", "resizable", "text", "gzip", "lzf", "fletcher32"]:
        try:
            file[name][()]
            seen[name] = "ok"
        except KeyError as error:
            assert "bad version number for layout message" in str(error), error
            seen[name] = "KeyError"
json.dump(seen, sys.stdout)
PY
cat > "$work/judge.py" <<'PY'
import json
from pathlib import Path

problems = []


def say(what, seen, wanted):
    print(f"{what}: {seen}")
    if seen != wanted:
        problems.append(f"changed: {what}: expected {wanted}")


written = [json.loads(Path(f"write-{version}.json").read_text()) for version in ("3.12.1", "3.15.1", "3.16.0")]
for one in written:
    say(f"h5py {one['version']}", f"default repeats {one['None'][1]}, latest repeats {one['latest'][1]}",
        f"default repeats True, latest repeats {one['version'] != '3.12.1'}")
count = {libver: len({one[libver][0] for one in written}) for libver in ("None", "latest")}
say("different files over the three", f"default {count['None']}, latest {count['latest']}", "default 1, latest 3")
plain = "contiguous ok, chunked ok, resizable ok, text ok"
for libver, version, filtered in [("latest", "3.12.1", "KeyError"), ("latest", "3.15.1", "KeyError"),
                                  ("v114", "3.15.1", "ok"), ("latest", "3.16.0", "ok")]:
    seen = json.loads(Path(f"read-{libver}-{version}.json").read_text())
    say(f"3.16.0 {libver} read by {version}", ", ".join(f"{name} {state}" for name, state in seen.items()),
        f"{plain}, gzip {filtered}, lzf {filtered}, fletcher32 {filtered}")
raise SystemExit("\n".join(problems) or 0)
PY
cd "$work"
for version in $VERSIONS; do
    PYTHONPATH="$work/h5py-$version" venv/bin/python write.py > "write-$version.json"
done
for case in "latest 3.12.1" "latest 3.15.1" "v114 3.15.1" "latest 3.16.0"; do
    read -r libver version <<< "$case"
    PYTHONPATH="$work/h5py-$version" venv/bin/python read.py "3.16.0-$libver.h5" > "read-$libver-$version.json"
done
venv/bin/python judge.py
