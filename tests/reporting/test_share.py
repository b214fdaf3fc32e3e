"""Shared studies: private text is removed, the bytes are the same twice, and an archive compares like its folder."""

import base64
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import matplotlib
import nbformat
import pytest
from example_studies import example_study
from nbformat.v4 import new_code_cell, new_notebook, new_output
from study_lab import change

from bertvision.cli import main
from bertvision.core.errors import DataError, OutputError
from bertvision.core.hashing import fingerprint
from bertvision.core.io import read_json
from bertvision.reporting import share
from bertvision.reporting.compare import compare_studies
from bertvision.reporting.results import read_study
from bertvision.reporting.share import export_study, open_shared, unpack

TOKEN = "hf_" + "Zq7" * 11
HOME = "/home/" + "somebody"
RUN = "finetune.cola.s0"


def drawing(path: Path) -> bytes:
    """A figure that remembers where it was made."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(1, 1))
    fig.savefig(path, metadata={"Comment": f"{HOME}/plot.py"})
    plt.close(fig)
    return path.read_bytes()


@pytest.fixture
def study(tmp_path, monkeypatch):
    """An invented study whose files say more than they should."""
    monkeypatch.setenv("MY_SECRET_WORD", "open sesame")
    study = example_study(tmp_path / "outputs")
    (study / "report").mkdir()
    picture = drawing(study / "report" / "scores.png")
    (study / "report" / "report.html").write_text(
        f'<p>made in {HOME}/thesis</p><img src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
    )
    (study / "report" / "table.md").write_text(f"# A study\n\nfrom {study}/runs and open sesame\n")
    outputs = [
        new_output("stream", text=f"\x1b[31mread {HOME}/glue/train.tsv\x1b[0m\nwith {TOKEN}\n"),
        new_output(
            "display_data",
            {"image/png": base64.b64encode(picture).decode(), "text/html": f"<b>{os.uname().nodename}</b>"},
        ),
    ]
    cell = new_code_cell(f'token = "{TOKEN}"\nload()', execution_count=1, outputs=outputs)
    nbformat.write(new_notebook(cells=[cell]), study / "runs" / RUN / "notebook.ipynb")
    (study / "runs" / RUN / "log.txt").write_text(
        f'Traceback: File "{HOME}/x.py", line 3\nAWS_SECRET_ACCESS_KEY=abcd1234efgh5678\n'
    )
    change(
        study,
        RUN,
        lambda r: r.update(
            remark=f"{HOME}/notes",
            parameters=r["parameters"] | {"data": "../../../../shared/glue"},
            hint="from ../../../../shared/glue/CoLA",
        ),
    )
    return study


def texts(archive: Path) -> dict:
    with zipfile.ZipFile(archive) as z:
        return {name.partition("/")[2]: z.read(name) for name in z.namelist()}


def test_tokens_paths_hosts_and_remarks_of_pictures_are_gone(study, tmp_path):
    export_study(study, tmp_path / "a.zip", logs=True)
    found = texts(tmp_path / "a.zip")
    for name, raw in found.items():
        for word in (TOKEN, HOME, str(tmp_path), "open sesame", "shared/glue", "abcd1234efgh5678", "plot.py"):
            assert word.encode() not in raw and base64.b64encode(word.encode())[2:-4] not in raw, (name, word)
    cell = nbformat.reads(found[f"runs/{RUN}/notebook.ipynb"], 4).cells[0]
    assert cell.source == 'token = "<token>"\nload()' and cell.outputs[0].text == "read <path>\nwith <token>\n"
    assert b"from <outputs>/example/runs" in found["report/table.md"] or b"<temp>" in found["report/table.md"]
    assert (
        json.loads(found[f"runs/{RUN}/record.json"])["parameters"]["data"] == "<data>"
        and "runs/finetune.cola.s0/log.txt" in found
    )


def test_models_states_and_logs_stay_at_home(study, tmp_path):
    for name in ("model/model.safetensors", "states/train.h5", "checkpoint/step-1/standing.json", ".lock"):
        (study / "runs" / RUN / name).parent.mkdir(parents=True, exist_ok=True)
        (study / "runs" / RUN / name).write_bytes(b"x")
    told = export_study(study, tmp_path / "a.zip", predictions=False)
    assert not [
        n
        for n in texts(tmp_path / "a.zip")
        if n.endswith((".safetensors", ".h5", "standing.json", ".lock", ".txt", ".parquet"))
    ]
    assert told["left_out"][:3] == ["models, checkpoints and states", "predictions", "logs"]


def test_the_manifest_says_what_is_there_and_what_is_missing(study, tmp_path):
    told = export_study(study, tmp_path / "a.zip")
    assert told == json.loads(texts(tmp_path / "a.zip")["manifest.json"])
    assert told["runs"] == {"finished": 10, "planned": 15}
    why = {m["run"]: m["why"] for m in told["missing"]}
    assert (
        why["finetune.sts-b.s2"] == "failed: out of memory"
        and why["finetune.qnli.s0"] == "not started"
        and "broken" in why["finetune.mrpc.s2"]
    )


def test_the_same_study_gives_the_same_bytes(study, tmp_path):
    export_study(study, tmp_path / "a.zip")
    for path in study.rglob("*"):
        os.utime(path, (1, 1))
    export_study(study, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("kind", ["record.json", "notebook.ipynb", "scores.png", "report.html"])
def test_an_archive_with_something_left_in_it_is_not_written(study, tmp_path, monkeypatch, kind):
    honest = share.scrubbed
    monkeypatch.setattr(
        share, "scrubbed", lambda name, raw, secrets: raw if name.endswith(kind) else honest(name, raw, secrets)
    )
    with pytest.raises(OutputError, match=f"nothing was exported: .*{kind} still holds") as told:
        export_study(study, tmp_path / "a.zip")
    assert (
        TOKEN not in str(told.value)
        and HOME not in str(told.value)
        and not list(tmp_path.glob("*.zip"))
        and not list(tmp_path.glob(".a.zip*"))
    )


def test_an_archive_compares_like_its_folder(study, tmp_path, capsys):
    export_study(study, tmp_path / "a.zip")
    found = compare_studies(read_study(study), open_shared(tmp_path / "a.zip"))
    assert len(found.table) == 4 and (found.table["difference"] == 0).all() and (found.table["p"].dropna() == 1).all()
    assert set(found.table["verdict"]) <= {"undecided", "no claim"}
    assert main(["compare", str(study), str(tmp_path / "a.zip"), "--out", str(tmp_path / "c.md")]) == 0
    text = (tmp_path / "c.md").read_text()
    assert (
        text in capsys.readouterr().out + "\n"
        and "| CoLA Matthews |" in text
        and "A: finetune.mrpc.s2 is broken" in text
    )


def test_commands_find_a_study_by_name_file_or_folder(study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "example"]) == 0
    told = capsys.readouterr()
    assert "example.zip: 10 of 15 runs" in told.out and "missing: finetune.qnli.s2: not started" in told.err
    assert (
        main(["export", str(study), "--file", "b.zip"]) == 0
        and Path("b.zip").read_bytes() == Path("example.zip").read_bytes()
    )
    assert main(["compare", "example", "b.zip"]) == 0
    assert main(["export", "absent"]) == 2 and "holds no study" in capsys.readouterr().err
    assert (
        main(["compare", "example", "b.zip", "--out", "c.txt"]) == 2
        and "ends in .md or .csv" in capsys.readouterr().err
    )


def test_what_cannot_be_paired_is_said(study, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(study, other)
    for seed in (0, 1, 2):
        (other / "runs" / f"finetune.mrpc.s{seed}" / "predictions.parquet").unlink()
    for seed in (0, 1, 2):
        change(other, f"finetune.cola.s{seed}", lambda r: r.update(seed=r["seed"] + 10))
        (other / "runs" / f"finetune.cola.s{seed}").rename(other / "runs" / f"finetune.cola.s{seed + 10}")
    for seed in (0, 1, 2):
        shutil.rmtree(other / "runs" / f"finetune.rte.s{seed}")
    found = compare_studies(read_study(study), read_study(other))
    notes = "\n".join(found.notes)
    for words in (
        "no claim: CoLA, finetune and finetune: no seed in common",
        "no claim: MRPC, finetune and finetune: predictions missing",
        "only in A: RTE, finetune, example-encoder: B has no finished run of that task",
    ):
        assert words in notes, notes
    assert found.table.set_index("task").loc["sts-b", "p"] == 1


def rewritten(source: Path, target: Path, act):
    with zipfile.ZipFile(target, "w") as archive:
        for name, raw in act({f"example/{n}": raw for n, raw in texts(source).items()}).items():
            archive.writestr(name, raw)
    return target


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda files: files | {"../../x": b""}, "expected one folder of plain files"),
        (lambda files: files | {"/etc/x": b""}, "expected one folder of plain files"),
        (lambda files: {k: v for k, v in files.items() if "manifest" not in k}, "no manifest.json"),
        (lambda files: files | {"example/more.json": b"{}"}, "lists other files"),
        (lambda files: files | {"example/plan.json": b"{}"}, "plan.json does not match its checksum in manifest.json"),
        (lambda files: files | {"example/manifest.json": b"[" * 5000}, "no archive that can be read"),
    ],
)
def test_foreign_archives_are_refused(study, tmp_path, act, words):
    export_study(study, tmp_path / "a.zip")
    with pytest.raises(DataError, match=words):
        unpack(rewritten(tmp_path / "a.zip", tmp_path / "b.zip", act), tmp_path / "out")
    assert not (tmp_path / "x").exists()


def test_an_archive_with_one_bad_file_leaves_nothing_behind(study, tmp_path):
    """The good files before it are gone, too; a study of the same name is not overwritten."""
    export_study(study, tmp_path / "a.zip")
    last = sorted(name for name in texts(tmp_path / "a.zip") if name != "manifest.json")[-1]
    rewritten(tmp_path / "a.zip", tmp_path / "b.zip", lambda files: files | {f"example/{last}": b"other"})
    with pytest.raises(DataError, match=f"{last} does not match its checksum in manifest.json"):
        unpack(tmp_path / "b.zip", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    opened = unpack(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [opened] and (opened / "plan.json").is_file()
    with pytest.raises(OutputError, match="example exists already: choose another folder"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_damaged_file_is_left_out_and_said(study, tmp_path):
    told = export_study(study, tmp_path / "a.zip")
    assert (
        "runs/finetune.mrpc.s2/record.json: is damaged" in told["left_out"]
        and read_json(study / "plan.json")["study"] == "example"
    )


def keep_code(study: Path) -> dict:
    """What the witness of runs would have left beside a study, and in a run by hand; returns name -> content."""
    kept = {
        "bertvision.core.io": {
            "source": "0123456789abcdef",
            "executed": {"fingerprint": "ab"},
            "statements": {},
            "file": "bertvision/core/io.py",
        }
    }
    files = {
        f"executed/{fingerprint(kept)}.json": json.dumps(kept, indent=0, sort_keys=True) + "\n",
        f"runs/{RUN}/executed/{fingerprint(kept)}.json": json.dumps(kept),
    }
    for text in ('mount = "/content/drive"\nname = "ä"\n', "x = 1\n"):
        files[f"sources/{fingerprint(text.encode())}.py"] = text
    for name, text in files.items():
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).write_text(text, encoding="utf-8")
    return {name: text.encode() for name, text in files.items()}


def test_what_runs_executed_travels_as_it_is(study, tmp_path):
    kept = keep_code(study)
    export_study(study, tmp_path / "a.zip")
    assert {name: raw for name, raw in texts(tmp_path / "a.zip").items() if name in kept} == kept
    opened = unpack(tmp_path / "a.zip", tmp_path / "opened")
    assert all((opened / name).read_bytes() == raw for name, raw in kept.items())


def test_a_source_that_says_too_much_or_is_not_what_its_name_says_stays_at_home(study, tmp_path):
    keep_code(study)
    for name, text in ((fingerprint(f'key = "{TOKEN}"'.encode()), f'key = "{TOKEN}"'), ("0123456789abcdef", "y = 2")):
        (study / "sources" / f"{name}.py").write_text(text)
    (study / "executed" / "fedcba9876543210.json").write_text("{}")
    told = export_study(study, tmp_path / "a.zip")
    found = [name for name in texts(tmp_path / "a.zip") if name.startswith(("sources/", "executed/"))]
    assert len(found) == 3, found
    reasons = sorted(text.partition(": ")[2] for text in told["left_out"] if text.startswith(("sources/", "executed/")))
    assert reasons == ["holds what has the form of a token, and is named by its content", "is damaged", "is damaged"]


@pytest.mark.parametrize("kind", ["executed", "sources"])
def test_an_archive_whose_code_is_not_what_its_name_says_is_refused(study, tmp_path, kind):
    keep_code(study)
    export_study(study, tmp_path / "a.zip")
    files = texts(tmp_path / "a.zip")
    name = next(n for n in files if n.startswith(kind))
    manifest = json.loads(files["manifest.json"])
    raw = b'{"changed": 1}'
    manifest["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    changed = {f"example/{name}": raw, "example/manifest.json": json.dumps(manifest).encode()}
    rewritten(tmp_path / "a.zip", tmp_path / "b.zip", lambda files: files | changed)
    with pytest.raises(DataError, match=f"{kind}/.* is not what its name says"):
        open_shared(tmp_path / "b.zip")
