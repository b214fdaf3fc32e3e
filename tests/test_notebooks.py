"""Run the notebooks as tests, one item each: a sample by default, all by `pytest -m "long or not long"`."""

import subprocess
from pathlib import Path

import pytest
from notebooks import run_notebook

ROOT = Path(__file__).parents[1]
NBS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MOST = len(NBS) // 6  # of the changed ones; a change of more than that is sampled, too


def git(*command):
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.split()


def sample():
    """Notebooks that the last twenty commits changed, and a sixth of the others: each commit has another sixth.

    All of them where the history does not go back so far, as in a shallow clone or without git.
    """
    if not git("rev-parse", "--verify", "--quiet", "HEAD~20"):
        return set(NBS)
    names = git("diff", "--name-only", "HEAD~20", "--", "nbs") + git("ls-files", "-mo", "--", "nbs")
    changed = {ROOT / name for name in names}
    turn = int(git("rev-parse", "HEAD")[0][:8], 16)
    sixth = {p for i, p in enumerate(NBS) if (i + turn) % 6 == 0}
    return sixth | (changed if len(changed & set(NBS)) <= MOST else set())


CHOSEN = sample()


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=str(p.relative_to(ROOT / "nbs")), marks=() if p in CHOSEN else pytest.mark.long) for p in NBS],
)
def test_notebook_runs(path):
    code, output = run_notebook(path)
    assert code == 0, output[-6000:]


def test_a_sixth_is_sampled_at_least():
    assert len(CHOSEN & set(NBS)) >= len(NBS) // 6
