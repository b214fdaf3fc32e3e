"""A study on Colab goes on in the next session."""

import zipfile

import pytest
from colab_session import disconnected_once

from bertvision.runs.records import read_record

STUDY = """
tasks: [toy-sentiment]
encoders: [tiny-random]
seeds: [0, 1]
steps:
  finetune: {parameters: {epochs: 2, train_examples: 600, max_length: 64, lr: 1e-3}}
"""


@pytest.mark.long
def test_a_session_that_disappears_is_continued_by_the_next(tmp_path):
    """What was done is not done again, what was begun goes on from its checkpoint; the archive is whole."""
    study = tmp_path / "studies" / "night.yaml"
    study.parent.mkdir()
    study.write_text(STUDY)
    code = disconnected_once(tmp_path, study)
    assert code == 0, (tmp_path / "disk/log.txt").read_text()[-2000:]
    place = tmp_path / "drive/MyDrive/bertvision/night"
    records = [read_record(run) for run in sorted((place / "runs").iterdir())]
    assert [r["status"] for r in records] == ["done", "done"]
    again = [r for r in records if r["attempt"] == 2]
    assert len(again) == 1 and again[0]["resumed_from"] > 0
    with zipfile.ZipFile(f"{place}.zip") as archive:
        assert all(f"runs/{r['job']}/record.json" in "\n".join(archive.namelist()) for r in records)
