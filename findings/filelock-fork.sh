#!/usr/bin/env bash
# filelock's FileLock is given up by a fork of its holder: when the holder is killed, others get the lock while the
# fork still works. A plain flock stays held until the fork has ended, too.
#
# Versions: filelock 4.3.1, Linux.
#
# Guess from the documentation ("FileLock is an alias of UnixFileLock, which uses fcntl.flock"), before the run: the
# lock belongs to the open file, which a fork shares; so it stays held as long as one of the two processes lives.
#
# Behaviour.
#  - filelock registers with os.register_at_fork and closes the child's copy of the descriptor. After SIGKILL of the
#    parent nobody holds the file open, and the next process gets the lock at once.
#  - the same with fcntl.flock on an open file: the child's copy keeps the lock.
#  - so a program whose workers are forks, and which must not be started twice while one of them still writes, cannot
#    rest on FileLock; filelock.lock_descriptor (since 3.30) locks a descriptor of one's own and leaves forks alone.
#
# Output seen:
#   flock: held by the fork
#   lock_descriptor: held by the fork
#   FileLock: free, while the fork lives
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q filelock==4.3.1
cat > "$work/hold.py" <<'PY'
import fcntl
import os
import sys
import time

import filelock

kind, path = sys.argv[1:]
if kind == "FileLock":
    lock = filelock.FileLock(path)
    lock.acquire()
else:
    file = open(path, "w")
    if kind == "flock":
        fcntl.flock(file, fcntl.LOCK_EX)
    else:
        filelock.lock_descriptor(file.fileno())
if os.fork() == 0:
    time.sleep(3)
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
PY
cat > "$work/try.py" <<'PY'
import fcntl
import subprocess
import sys
import time
from pathlib import Path

here = Path(__file__).parent
for kind in ("flock", "lock_descriptor", "FileLock"):
    path = here / f"{kind}.lock"
    holder = subprocess.Popen([sys.executable, here / "hold.py", kind, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    holder.kill()
    holder.wait()
    time.sleep(0.3)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(f"{kind}: free, while the fork lives")
        except BlockingIOError:
            print(f"{kind}: held by the fork")
PY
"$work/venv/bin/python" "$work/try.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
flock: held by the fork
lock_descriptor: held by the fork
FileLock: free, while the fork lives
SEEN
