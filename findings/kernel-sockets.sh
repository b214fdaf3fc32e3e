#!/usr/bin/env bash
# Kernels over ipc: the obvious way to ask for it gives tcp, and without a named file the sockets lie wherever you are.
#
# Versions: jupyter_client 8.10.0, ipykernel 7.4.0, nbclient 0.11.0, papermill 2.7.0. Linux.
#
# Behaviour. NotebookClient and papermill.execute_notebook accept `transport="ipc"` without a warning and ignore it: the
# kernel listens on tcp. Only a traitlets Config for KernelManager is obeyed (papermill passes `config` on). Then:
#  - nothing is put into the runtime folder: the address is the relative path `kernel-ipc`, five sockets in the current
#    folder, numbered by what is there when the connection file is written;
#  - with such relative addresses we have seen kernels that were alive and whose client got no answer (not shown here);
#  - a `connection_file` named before the start cures this: two kernels at once have absolute addresses of their own
#    beside their files, both answer although their `cwd` is elsewhere, and all sockets are removed at the end.
# New in these versions: on tcp ipykernel warns on stderr that messages are sent in plain text.
# transport_encryption="auto" gives keys only to a kernelspec whose metadata asks for them (ipykernel's does); a
# kernelspec written by hand for the same kernel gets none, without a warning, and "required" refuses it. The connection
# file then holds both the public and the secret key.
#
# Output seen (the number after an address: sockets in the current folder):
#   nbclient, transport="ipc": tcp 127.0.0.1 0
#   papermill, transport="ipc": tcp 127.0.0.1 0
#   nbclient, Config: ipc kernel-ipc 5
#   papermill, Config: ipc kernel-ipc 5
#   connection files: same addresses, all absolute, answers, left: (False, True, [True, True], 0)
#   encryption auto, ipykernel's spec: True
#   encryption auto, a spec by hand: False
#   encryption required, a spec by hand: RuntimeError
#
# Why it matters in an encoder lab: studies start many kernels at once, and ipc keeps two of them from drawing the same
# tcp port. Asked for in the obvious way, ipc is not used at all. Asked for by Config alone, all kernels of one study
# have relative addresses in one folder. Name a connection file for each run, in a short absolute folder, and check
# inside the kernel which transport it uses.
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
        client.wait_for_ready(timeout=60)
        return True
    except RuntimeError:
        return False
    finally:
        client.stop_channels()


ipc = Config(KernelManager={"transport": "ipc"})
for name, run in (("nbclient", by_nbclient), ("papermill", by_papermill)):
    say(f'{name}, transport="ipc"', run(transport="ipc"), "tcp 127.0.0.1 0")
for name, run in (("nbclient", by_nbclient), ("papermill", by_papermill)):
    say(f"{name}, Config", run(config=ipc), "ipc kernel-ipc 5")

pair = [KernelManager(transport="ipc", connection_file=str(files / f"{name}.json")) for name in "ab"]
for manager in pair:
    manager.start_kernel(stderr=QUIET, cwd=there)
same = addresses(pair[0]) == addresses(pair[1])
absolute = all(os.path.isabs(addresses(manager)[0]) for manager in pair)
replies = [answers(manager) for manager in pair]
for manager in pair:
    manager.shutdown_kernel(now=True)
seen = same, absolute, replies, sockets(files)
say("connection files: same addresses, all absolute, answers, left", seen, (False, True, [True, True], 0))


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
