"""What the tests share: the folder with real data, when there is one."""

import os
import signal
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # before torch: workers with all threads each would wait for each other

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # in the background a shell ignores Ctrl-C, and so would the processes that tests interrupt


@pytest.fixture(scope="session", autouse=True)
def outputs_elsewhere(tmp_path_factory):
    """Runs by hand, as the notebooks' own tests are, leave nothing in the clone."""
    before = os.environ.get("BERTVISION_OUTPUTS")
    os.environ["BERTVISION_OUTPUTS"] = str(tmp_path_factory.mktemp("outputs"))
    yield
    os.environ.pop("BERTVISION_OUTPUTS")
    if before is not None:
        os.environ["BERTVISION_OUTPUTS"] = before


@pytest.fixture(autouse=True)
def forgotten(outputs_elsewhere):
    """Forget, after each test, the tasks that it read from files and the BERTVISION_ variables that were set."""
    before = {k: v for k, v in os.environ.items() if k.startswith("BERTVISION_")}
    yield
    for key in [k for k in os.environ if k.startswith("BERTVISION_") and k not in before]:
        os.environ.pop(key)
    os.environ.update(before)
    tasks = sys.modules.get("bertvision.data.tasks")
    if tasks is None:
        return
    for name in [name for name, task in tasks.TASKS.items() if task.file]:
        tasks.TASKS.pop(name)
        for alias in [alias for alias, owner in tasks._ALIASES.items() if owner == name]:
            tasks._ALIASES.pop(alias)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder in GLUE's layout that BERTVISION_DATA names; without it the test is skipped."""
    place = os.environ.get("BERTVISION_DATA")
    if not place:
        pytest.skip("BERTVISION_DATA is not set: tests on real data need a folder in GLUE's layout")
    return Path(place).resolve()


def pytest_collection_modifyitems(items):
    """Tests that ask for real data can be chosen: `-m real`."""
    for item in items:
        if "data_dir" in item.fixturenames:
            item.add_marker("real")
