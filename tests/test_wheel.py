"""An installed wheel finds its experiments, reports, studies and published numbers without the clone."""

import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from email.parser import BytesParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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


@pytest.fixture(scope="module")
def written(wheel):
    """Files of the wheel's dist-info by name."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" in n]
        return {n.rpartition("/")[2]: archive.read(n) for n in names}


@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def test_the_wheel_says_what_settings_ini_says(written, settings):
    metadata = BytesParser().parsebytes(written["METADATA"])
    for field, key in (
        ("Name", "lib_name"),
        ("Version", "version"),
        ("Summary", "description"),
        ("Author", "author"),
        ("Author-email", "author_email"),
        ("Home-page", "git_url"),
    ):
        assert metadata[field] == settings[key]
    extras = {name: settings[f"{name}_requirements"].split() for name in ("offline", "cluster", "dev")}
    extras["dev"] += extras["offline"] + extras["cluster"]
    expected = settings["requirements"].split()
    for name, texts in extras.items():
        expected += [f'{text}; extra == "{name}"' for text in texts]
    assert {*map(Requirement, metadata.get_all("Requires-Dist"))} == {*map(Requirement, expected)}
    assert sorted(metadata.get_all("Provides-Extra")) == sorted(extras)
    entries = written["entry_points.txt"].decode().replace(" = ", "=")
    assert settings["console_scripts"] in entries and "bertvision=bertvision._modidx:d" in entries


def test_the_wheel_is_for_the_pythons_that_ci_tries(written, settings):
    metadata = BytesParser().parsebytes(written["METADATA"])
    supported = SpecifierSet(metadata["Requires-Python"])
    pythons = [f"3.{minor}" for minor in range(30) if supported.contains(f"3.{minor}.0")]
    assert pythons[0] == settings["min_python"]
    assert [f"Programming Language :: Python :: {v}" for v in pythons] == metadata.get_all("Classifier")[2:]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r'"(3\.\d+)"', workflow) == pythons


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
