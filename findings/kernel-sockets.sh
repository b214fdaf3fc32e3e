#!/usr/bin/env bash
# Kernels over ipc: of two started together one takes the other's sockets, and the obvious way to ask for ipc gives tcp.
#
# Versions: jupyter_client 8.10.0, ipykernel 7.4.0, nbclient 0.11.0, papermill 2.7.0. Linux.
#
# Behaviour. `transport="ipc"` given to NotebookClient or to papermill.execute_notebook is taken without a word and the
# kernel listens on tcp; only a traitlets Config for KernelManager is obeyed (papermill passes `config` on). Then:
#  - no file of the runtime folder is used: the address is the relative path `kernel-ipc`, five sockets in the current
#    folder, numbered by what is there when the connection file is written;
#  - so two kernels started one right after the other, from one folder, get the same five addresses (with two keys).
#    Both live; the one that binds last has taken over the socket files, and the other's client is not answered;
#  - a kernel started with another `cwd` opens its sockets there, the client looks here, they never meet, and
#    shutdown leaves the five files where the kernel was;
#  - a `connection_file` named before the start cures all three: absolute addresses beside that file, all removed.
# New in these versions: on tcp ipykernel warns on stderr that all is sent in plain text. transport_encryption="auto"
# gives keys to a kernelspec that says so in its metadata (ipykernel's does) and silently none to one written by hand,
# for the same kernel; "required" refuses the latter. Keys of both halves then stand in the connection file.
#
# Output seen (the number after an address: sockets in the current folder):
#   nbclient, transport="ipc": tcp 127.0.0.1 0
#   papermill, transport="ipc": tcp 127.0.0.1 0
#   nbclient, Config: ipc kernel-ipc 5
#   papermill, Config: ipc kernel-ipc 5
#   two at once: same addresses, same keys, alive, sockets, one of two answers: (True, False, [True, True], 5, 1)
#   cwd elsewhere: answers, sockets here, there, left there: (False, 0, 5, 5)
#   connection files: same addresses, answers, left: (False, [True, True], 0)
#   encryption auto, ipykernel's spec: True
#   encryption auto, a spec by hand: False
#   encryption required, a spec by hand: RuntimeError
#
# Why it matters in an encoder lab: studies start many kernels at once, and ipc is the cure for two of them drawing the
# same tcp port. Taken as it comes it makes that collision certain instead of rare: kernels of one study are started
# from one folder, and those that run in their own folder are not reached at all. Name a connection file per run, in a
# short absolute folder, and check inside the kernel which transport it got.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check \
    jupyter_client==8.10.0 ipykernel==7.4.0 nbclient==0.11.0 papermill==2.7.0

cat > "$work/sockets.py" <<'PY'
import json
import os
import sys
import time
from pathlib import Path

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from traitlets.config import Config

here, there, files = Path("here").resolve(), Path("there").resolve(), Path("files").resolve()
for folder in (here, there, files):
    folder.mkdir()
os.chdir(here)
QUIET = open(os.devnull, "w")
CELL = """
import os
from ipykernel.kernelapp import IPKernelApp
kernel = IPKernelApp.instance()
print(kernel.transport, kernel.ip, sum(name.startswith("kernel-ipc-") for name in os.listdir()))
"""
problems = []


def say(what, seen, wanted):
    print(f"{what}: {seen}")
    if seen != wanted:
        problems.append(f"changed: {what}: {seen!r}, expected {wanted!r}")


def notebook():
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=[new_code_cell(CELL)], metadata=metadata)


def by_nbclient(**options):
    executed = NotebookClient(notebook(), kernel_name="python3", **options).execute()
    return executed.cells[0].outputs[-1].text.strip()


def by_papermill(**options):
    nbformat.write(notebook(), files / "in.ipynb")
    executed = papermill.execute_notebook(files / "in.ipynb", files / "out.ipynb", progress_bar=False, **options)
    return executed.cells[-1].outputs[-1].text.strip()


def sockets(folder):
    return sum("-ipc-" in name for name in os.listdir(folder))


def addresses(manager):
    info = manager.get_connection_info()
    return info["ip"], *sorted(info[f"{channel}_port"] for channel in ("shell", "iopub", "stdin", "control", "hb"))


def answers(manager):
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=4)
        return True
    except RuntimeError:
        return False
    finally:
        client.stop_channels()


def wait_until_bound(manager):
    "Linux: the kernel's process holds five sockets with names of ours, whoever owns the files by now."
    process = manager.provisioner.pid
    for _ in range(600):
        held = {os.readlink(link.path) for link in os.scandir(f"/proc/{process}/fd") if link.is_symlink()}
        names = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "kernel-ipc-" in line]
        if sum(f"socket:[{fields[6]}]" in held for fields in names) >= 5:
            return
        time.sleep(0.1)
    raise SystemExit("a kernel did not open its sockets within a minute")


ipc = Config(KernelManager={"transport": "ipc"})
for name, run in (("nbclient", by_nbclient), ("papermill", by_papermill)):
    say(f'{name}, transport="ipc"', run(transport="ipc"), "tcp 127.0.0.1 0")
for name, run in (("nbclient", by_nbclient), ("papermill", by_papermill)):
    say(f"{name}, Config", run(config=ipc), "ipc kernel-ipc 5")

pair = [KernelManager(transport="ipc") for _ in range(2)]
for manager in pair:
    manager.start_kernel(stderr=QUIET)
same = addresses(pair[0]) == addresses(pair[1])
keys = pair[0].session.key == pair[1].session.key
for manager in pair:
    wait_until_bound(manager)
replies = [answers(manager) for manager in pair]
say("two at once: same addresses, same keys, alive, sockets, one of two answers",
    (same, keys, [manager.is_alive() for manager in pair], sockets(here), sum(replies)),
    (True, False, [True, True], 5, 1))
for manager in pair:
    manager.shutdown_kernel(now=True)

away = KernelManager(transport="ipc")
away.start_kernel(stderr=QUIET, cwd=there)
wait_until_bound(away)
seen = answers(away), sockets(here), sockets(there)
away.shutdown_kernel(now=True)
say("cwd elsewhere: answers, sockets here, there, left there", (*seen, sockets(there)), (False, 0, 5, 5))

pair = [KernelManager(transport="ipc", connection_file=str(files / f"{name}.json")) for name in "ab"]
for manager in pair:
    manager.start_kernel(stderr=QUIET, cwd=there)
same = addresses(pair[0]) == addresses(pair[1])
replies = [answers(manager) for manager in pair]
for manager in pair:
    manager.shutdown_kernel(now=True)
say("connection files: same addresses, answers, left", (same, replies, sockets(files)), (False, [True, True], 0))


def keys_given(policy, by_hand):
    manager = KernelManager(kernel_name="python3", transport_encryption=policy)
    if by_hand:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=argv, display_name="by hand", language="python")
    try:
        manager.start_kernel(stderr=QUIET)
    except RuntimeError as error:
        return type(error).__name__
    try:
        return "curve_secretkey" in json.loads(Path(manager.connection_file).read_text())
    finally:
        manager.shutdown_kernel(now=True)


say("encryption auto, ipykernel's spec", keys_given("auto", by_hand=False), True)
say("encryption auto, a spec by hand", keys_given("auto", by_hand=True), False)
say("encryption required, a spec by hand", keys_given("required", by_hand=True), "RuntimeError")
raise SystemExit("\n".join(problems) or 0)
PY
cd "$work"
export HOME="$work/home" IPYTHONDIR="$work/home/ipython" JUPYTER_RUNTIME_DIR="$work/run" JUPYTER_DATA_DIR="$work/data"
mkdir -p "$HOME"
"$work/venv/bin/python" sockets.py 2> "$work/stderr" || { rc=$?; tail -n 20 "$work/stderr"; exit "$rc"; }
