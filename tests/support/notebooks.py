"""Run a notebook as a test, in a fork of a process that has imported the large libraries once."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "BERTVISION_QUIET": "1", "MPLBACKEND": "agg", "IN_TEST": "1"}
WARM = "warm_notebooks"  # the module that the server of forks imports


@contextlib.contextmanager
def _environment():
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    os.environ.pop("BERTVISION_DATA", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _execute(path: str, log: str):
    "Execute the cells of a notebook as nbdev's test does. Exits with 1 if one fails."
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
    os.chdir(ROOT)
    multiprocessing.set_start_method(None, force=True)  # not "forkserver", which this fork inherited
    from nbdev.config import get_config
    from nbdev.test import test_nb

    passed, _ = test_nb(Path(path), skip_flags=get_config().tst_flags.split(), do_print=True)
    sys.exit(0 if passed else 1)


def run_notebook(path: Path) -> tuple:  # exit code, its output
    "Run a notebook in a process of its own."
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload([WARM])
    with tempfile.TemporaryDirectory() as folder, _environment():
        log = Path(folder) / "log.txt"
        process = context.Process(target=_execute, args=(str(path), str(log)))
        process.start()
        process.join()
        return process.exitcode, log.read_text(errors="replace") if log.exists() else ""
