"""A Colab session that is cut off: run the tutorial, kill everything, run it again.

    python tools/colab_session.py STUDY.yaml FOLDER

A session has a disk of its own, which is wiped with it, and Drive, which is not.
All its processes are killed at once, without a warning."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

TUTORIAL = Path(__file__).parents[1] / "nbs" / "tutorials" / "study_on_colab.ipynb"
STAND_IN = (
    "def mount(place):\n    import pathlib\n    (pathlib.Path(place) / 'MyDrive').mkdir(parents=True, exist_ok=True)\n"
)


def start(place: Path, study: Path) -> subprocess.Popen:
    """A session on a fresh disk; Drive lies beside it."""
    disk, colab = place / "disk", place / "disk" / "packages" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").write_text("from . import drive\n")
    (colab / "drive.py").write_text(STAND_IN)
    env = os.environ | {
        "COLAB_RELEASE_TAG": "stand-in",
        "BERTVISION_CACHE": str(disk / "cache"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(colab.parents[1]), os.environ.get("PYTHONPATH")])),
    }
    words = ["-p", "study", str(study), "-p", "mount", str(place / "drive"), "-p", "minutes", "0.001"]
    return subprocess.Popen(
        [sys.executable, "-m", "papermill", str(TUTORIAL), str(disk / "session.ipynb"), *words, "--no-progress-bar"],
        cwd=disk,
        env=env,
        stdout=open(disk / "log.txt", "w"),
        stderr=subprocess.STDOUT,
    )


def pull_the_plug(session: subprocess.Popen, place: Path):
    """Kill all that the session has started, and wipe its disk."""
    everybody = psutil.Process(session.pid).children(recursive=True)
    for process in [psutil.Process(session.pid), *everybody]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    session.wait()
    psutil.wait_procs(everybody, timeout=10)
    shutil.rmtree(place / "disk")


def begun(place: Path, share: float) -> bool:
    """Whether some run on Drive has come so far and is not done."""
    import json

    for path in (place / "drive").rglob("progress.json"):
        told, record = (json.loads(p.read_text()) for p in (path, path.with_name("record.json")))
        if share <= told["done"] / told["total"] < 1 and record["status"] == "running":
            return True
    return False


def disconnected_once(
    place: Path, study: Path, share: float = 0.3, patience: float = 300
) -> int:  # exit code of the second session
    """Run the tutorial until a run is under way, pull the plug, run it again to its end."""
    session, end = start(place, study), time.monotonic() + patience
    while not begun(place, share):
        assert session.poll() is None and time.monotonic() < end, (place / "disk" / "log.txt").read_text()[-2000:]
        time.sleep(0.05)
    pull_the_plug(session, place)
    return start(place, study).wait(patience)


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True)
    sys.exit(disconnected_once(folder, Path(sys.argv[1]).resolve()))
