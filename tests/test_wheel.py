"""An installed wheel finds its experiments, reports, studies and published numbers without the clone."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(clone)], check=True)
    return next(folder.glob("bertvision-*.whl"))


def test_the_notebooks_travel_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for kind, suffix in (("experiments", ".ipynb"), ("reports", ".ipynb"), ("studies", ".yaml"), ("published", ".csv")):
        here = {p.name for p in (ROOT / "nbs" / kind).iterdir() if p.suffix == suffix}
        assert here and {n.rsplit("/", 1)[1] for n in names if n.startswith(f"bertvision/_nbs/{kind}/")} == here
    assert not any(n.startswith(("tests/", "outputs/")) for n in names)


def test_resources_are_found_from_the_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import bertvision.core.io as c; print(c.__file__); print(c.resources()); "
        "print(len(list((c.resources() / 'experiments').iterdir())))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    module, place, count = out.stdout.split()
    assert Path(module).is_relative_to(tmp_path) and Path(place) == tmp_path.resolve() / "bertvision" / "_nbs", (
        out.stderr
    )
    assert int(count) >= 2
