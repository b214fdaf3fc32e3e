"""Whatever a file holds, its reader returns something usable or raises one of the project's own errors."""

import gzip
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from bending import VALUES, bent, json_files, twisted, yaml_files
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as safetensors_bytes
from study_lab import Lab

from bertvision.core.errors import BertvisionError
from bertvision.core.io import read_json
from bertvision.runs.parameters import check_parameters, read_parameters
from bertvision.runs.records import read_record

N = int(os.environ.get("BERTVISION_FUZZ", 30))  # inputs of each kind; the same ones each time unless asked for
fuzzed = settings(
    max_examples=N,
    derandomize="BERTVISION_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


TOLD = {"read": 0, "refused": 0}


@pytest.fixture(autouse=True)
def told():
    """How many inputs were read and refused; to be seen with `pytest -rP`."""
    TOLD.update(read=0, refused=0)
    yield
    print("fuzzed:", TOLD)


def ask(read, *args, **kwargs):
    """What a reader says; None when it refuses in the project's own words."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read(*args, **kwargs)
    except BertvisionError as e:
        assert str(e).strip() and len(str(e)) < 5_000
        TOLD["refused"] += 1
        return None
    TOLD["read"] += 1
    return found


def put(path: Path, raw: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    return path


TSV = {
    "sst-2": ("SST-2/train.tsv", "sentence\tlabel\n" + "".join(f"a good film {i}\t{i % 2}\n" for i in range(6))),
    "cola": ("CoLA/train.tsv", "".join(f"src\t{i % 2}\t\tA sentence {i} .\n" for i in range(6))),
    "sts-b": (
        "STS-B/train.tsv",
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        + "".join(f"{i}\tg\tf\ty\to\ts\ts\tfirst {i}\tsecond\t{i % 6}.00\n" for i in range(6)),
    ),
    "hans": (
        "HANS/heuristics_evaluation_set.txt",
        "gold_label\tsentence1\tsentence2\tpairID\theuristic\tsubcase\ttemplate\n"
        + "".join(f"entailment\tone {i}\ttwo\tex{i}\tsubsequence\tsn_NP/S\ttemp1\n" for i in range(4)),
    ),
}


@pytest.mark.parametrize("name", TSV)
def test_files_in_the_layout_of_glue(name, place):
    from bertvision.data.sources import load_task

    file, text = TSV[name]
    split = "validation" if name == "hans" else "train"

    @fuzzed
    @given(
        st.one_of(
            bent(text.encode()).map(lambda raw: (file, raw)),
            bent(gzip.compress(text.encode(), mtime=0)).map(lambda raw: (f"{file}.gz", raw)),
        )
    )
    def check(made):
        home = place / "glue"
        for old in (home / file, home / f"{file}.gz"):
            old.unlink(missing_ok=True)
        put(home / made[0], made[1])
        data = ask(load_task, name, home, splits=(split,))
        if data is None:
            return
        assert len(data[split]) == len(data.labels(split)) > 0 and np.isfinite(data.labels(split)).all()
        assert all(row["text"].encode() is not None for row in data[split]) and repr(data) and data.fingerprint

    check()


OWN = {
    "name": "reviews",
    "kind": "classification",
    "text": ["body", "title"],
    "label": "stars",
    "labels": {"0": "negative", "1": "positive"},
    "metrics": ["accuracy", "f1"],
    "files": {"train": "train.csv", "validation": "dev.jsonl", "test": "test.tsv"},
    "max_length": 40,
    "title": "Reviews",
    "report": ["validation"],
}
ROWS = [{"body": f'it was "good", {i}', "title": f"line {i}", "stars": i % 2} for i in range(4)]
TABLES = {
    "csv": "body,title,stars\n" + "".join(f'"it was ""good"", {i}","line\n{i}",{i % 2}\n' for i in range(4)),
    "tsv": "body\ttitle\tstars\n" + "".join(f"it was good, {i}\tline {i}\t{i % 2}\n" for i in range(4)),
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
}
LINES = st.lists(twisted(ROWS[0]), min_size=1, max_size=3).map(
    lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode()
)


def own_folder(home: Path) -> Path:
    (
        put(home / "train.csv", TABLES["csv"].encode()),
        put(home / "dev.jsonl", TABLES["jsonl"].encode()),
        put(home / "test.tsv", TABLES["tsv"].encode()),
    )
    return home


@pytest.mark.parametrize("kind, scores", [("csv", False), ("tsv", False), ("jsonl", False), ("jsonl", True)])
def test_tables_of_tasks_of_ones_own(kind, scores, place):
    from dataclasses import replace

    from bertvision.data.sources import load_task
    from bertvision.data.tasks import read_task
    from bertvision.states.embed import _texts_of

    home = own_folder(place / "tables")
    regression = (
        {**{k: v for k, v in OWN.items() if k != "labels"}, "kind": "regression", "metrics": ["pearson"]}
        if scores
        else OWN
    )
    (home / "reviews.yaml").write_text(
        json.dumps(regression | {"files": {s: f"{s}.{kind}" for s in ("train", "validation")}})
    )
    for split in ("train", "validation"):
        put(home / f"{split}.{kind}", TABLES[kind].encode())
    task = read_task(home / "reviews.yaml")

    @fuzzed
    @given(st.one_of(bent(TABLES[kind].encode()), LINES) if kind == "jsonl" else bent(TABLES[kind].encode()))
    def check(raw):
        file = put(home / f"train.{kind}", raw)
        ask(lambda: list(_texts_of(file, ("body", "title"))))
        data = ask(load_task, replace(task), splits=("train",))
        if data is None:
            return
        assert len(data["train"]) == len(data.labels("train")) > 0 and np.isfinite(data.labels("train")).all()
        assert all(isinstance(row["text_pair"], str) for row in data["train"]) and data.fingerprint

    check()


def test_descriptions_of_tasks_of_ones_own(place):
    from bertvision.data.sources import load_task
    from bertvision.data.tasks import read_task

    home = own_folder(place / "own")

    @fuzzed
    @given(yaml_files(OWN))
    def check(raw):
        task = ask(read_task, put(home / "reviews.yaml", raw))
        if task is None:
            return
        data = ask(load_task, task)
        assert data is None or repr(data)

    check()


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": f"Rome{a}",
            "paragraphs": [
                {
                    "context": "Rome is old. It is in Italy.",
                    "qas": [
                        {
                            "id": f"q{a}",
                            "question": "Where is it?",
                            "answers": [{"text": "Italy", "answer_start": 22}],
                            "is_impossible": False,
                        },
                        {"id": f"n{a}", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
        for a in range(2)
    ],
}


def test_questions(place):
    from bertvision.data.squad import article_titles, read_squad
    from bertvision.evaluation.answering import as_dataset

    @fuzzed
    @given(json_files(SQUAD))
    def check(raw):
        path = put(place / "dev.json", raw)
        ask(article_titles, path)
        q = ask(read_squad, path)
        if q is not None:
            assert len(as_dataset(q)) == len(q) > 0 and repr(q)

    check()


def test_predictions_and_null_odds(place):
    from bertvision.evaluation.answering import official_file, score_file

    gold = put(place / "gold.json", json.dumps(SQUAD).encode())
    ids = ("q0", "n0", "q1", "n1")

    @fuzzed
    @given(json_files(dict.fromkeys(ids, "Italy")), json_files(dict.fromkeys(ids, -0.5)), st.booleans(), st.booleans())
    def check(said, odds, sound, sound_odds):
        if sound:
            said = json.dumps(dict.fromkeys(ids, "Italy")).encode()
        if sound_odds:
            odds = json.dumps(dict(zip(ids, (-0.5, 1e299, 0, -1e299)))).encode()
        files = gold, put(place / "predictions.json", said), put(place / "odds.json", odds)
        scored, printed = ask(score_file, *files, 0.0), ask(official_file, *files, 0.0)
        assert (scored is None) == (printed is None)
        if printed is not None:
            assert all(np.isfinite(v) for v in (printed.printed | printed.own).values())

    check()


def test_predictions_for_hans(place):
    from bertvision.evaluation.hans import score_hans_file

    pairs = put(place / "heuristics_evaluation_set.txt", TSV["hans"][1].encode())

    @fuzzed
    @given(bent(b"pairID,gold_label\n" + b"".join(b"ex%d,entailment\n" % i for i in range(4))))
    def check(raw):
        result = ask(score_hans_file, pairs, put(place / "predictions.txt", raw))
        if result is not None:
            assert 0 <= result.metrics["accuracy"] <= 1 and repr(result)

    check()


@pytest.mark.parametrize("layout", ["text", "sentences"])
def test_plain_text(layout, place):
    from bertvision.pretraining.corpus import read_documents

    @fuzzed
    @given(bent(b"One day it rained. They stayed at home!\n\nThe next day was dry.\n" * 2))
    def check(raw):
        found = ask(read_documents, put(place / "book.txt", raw), layout)
        assert found is None or all(sentence for document in found for sentence in document)

    check()


@pytest.fixture
def finished(place):
    """A small study that has been run, as far as its files tell."""
    from example_studies import example_study

    study = example_study(Path(tempfile.mkdtemp(dir=place)))
    for run in (study / "runs").iterdir():
        if run.name not in ("finetune.rte.s0", "finetune.rte.s1"):
            shutil.rmtree(run)
    return study


def look(study: Path):
    """All that a report asks of a study."""
    from bertvision.reporting.results import glue_table, read_study, scores

    results = read_study(study)
    return repr(results), scores(results), glue_table(results)


def test_records(place, finished):
    from bertvision.engine.local import headline
    from bertvision.evaluation.glue_server import _candidate
    from bertvision.runs.records import seconds_of, upstream_seconds

    run = finished / "runs" / "finetune.rte.s0"
    sound = read_json(run / "record.json")
    full = sound | {
        "history": sound["history"][:2],
        "fingerprints": {"job": "x", "code": "y"},
        "variants": None,
        "parameters_count": {"trainable": 5},
    }

    @fuzzed
    @given(json_files(full))
    def check(raw):
        put(run / "record.json", raw)
        record = ask(read_record, run)
        if record is not None:
            (
                headline(record),
                seconds_of(record),
                upstream_seconds(run),
                upstream_seconds(run, "steps/5"),
                ask(_candidate, run),
            )
        look(finished)

    try:
        check()
    finally:
        put(run / "record.json", json.dumps(sound).encode())


def test_plans(place, finished):
    sound = (finished / "plan.json").read_bytes()
    plan = json.loads(sound)

    @fuzzed
    @given(
        json_files(
            plan
            | {
                "jobs": plan["jobs"][:3],
                "titles": {"finetune": "BERT"},
                "highlights": {"finetune": ["x"]},
                "command": "bertvision run x",
                "published": "",
            }
        )
    )
    def check(raw):
        put(finished / "plan.json", raw)
        ask(look, finished)

    try:
        check()
    finally:
        put(finished / "plan.json", sound)


def frames(sound: pd.DataFrame):
    """Tables with a column that is missing, of another type or partly wrong."""

    def change(name, values):
        return sound.drop(columns=name) if values is None else sound.assign(**{name: values})

    n = len(sound)
    values = st.sampled_from(
        [
            None,
            ["x"] * n,
            [None] * n,
            [np.nan] * n,
            [[1]] * n,
            [{"a": 1}] * n,
            [b"\xff"] * n,
            [True] * n,
            [1e308] * n,
            [-5] * n,
            [2**62] * n,
            pd.Timestamp(0),
            ["é"] + ["x"] * (n - 1),
        ]
    )
    return st.builds(change, st.sampled_from(list(sound)), values)


def test_tables_of_predictions(place, finished):
    from bertvision.evaluation.ensembles import read_predictions

    run = finished / "runs" / "finetune.rte.s0"
    sound, rows = (run / "predictions.parquet").read_bytes(), pd.read_parquet(run / "predictions.parquet")

    @fuzzed
    @given(st.one_of(bent(sound), frames(rows)))
    def check(made):
        if isinstance(made, bytes):
            put(run / "predictions.parquet", made)
        else:
            made.to_parquet(run / "predictions.parquet", index=False)
        ask(read_predictions, run), look(finished)

    try:
        check()
    finally:
        put(run / "predictions.parquet", sound)


def test_what_runs_leave_for_the_runner(place):
    from bertvision.engine.child import own_record
    from bertvision.engine.local import _progress, _up_to_date
    from bertvision.runs.run import Run

    folder = place / "run"
    files = {
        "progress.json": {"done": 3, "total": 10, "time": 1.0, "elapsed": 2.0, "loss": 0.5},
        "fingerprint.json": {"inputs": "x", "files": ["table.md"]},
        "job.json": {
            "study": "s",
            "step": "learn",
            "run": "r",
            "fingerprint": "x",
            "parts": {"code": "y"},
            "experiment": "learn",
            "parameters": {"lr": 1.0},
            "record": True,
            "notebook": "x.ipynb",
        },
        "record.json": {
            "status": "running",
            "experiment": "learn",
            "parameters": {},
            "seed": 0,
            "protocol": "carved",
            "metrics": {},
            "seconds": {},
            "fingerprints": {"job": "x"},
            "attempt": 1,
            "seconds_before": 1.0,
        },
    }

    @fuzzed
    @given(st.sampled_from(list(files)).flatmap(lambda name: st.tuples(st.just(name), json_files(files[name]))))
    def check(made):
        for name, tree in files.items():
            put(folder / name, json.dumps(tree).encode())
        put(folder / made[0], made[1])
        share, _ = _progress(folder)
        assert 0 <= share <= 1
        ask(own_record, folder, "x"), ask(_up_to_date, folder, "x")
        run = ask(Run.start, "learn", {"lr": 1.0}, str(folder))
        if run is not None:
            assert run.seconds >= 0 and read_record(folder)["attempt"] >= 1

    check()


STUDY = {
    "title": "A study",
    "tasks": ["toy-sentiment"],
    "encoders": ["tiny-random"],
    "seeds": [0, 1],
    "published": "",
    "steps": {
        "learn": {
            "title": "Learn",
            "parameters": {"lr": 1e-4},
            "per_task": {"toy-sentiment": {"epochs": 2.0}},
            "sweep": {"epochs": [1.0, 2.0]},
            "over": ["task", "encoder", "seed"],
        },
        "use": {
            "experiment": "learn",
            "needs": {"learn": [{"step": "learn", "task": "toy-sentiment"}]},
            "tasks": ["toy-sentiment"],
            "encoders": ["tiny-random"],
            "recipe": "best.yaml",
            "highlights": ["x"],
        },
    },
}
NOTEBOOK = """task = "cola"  # a name
encoder = "tiny-random"
seed = 0
lr = 1e-4
epochs = 1.0
out_dir = ""
learn_dir = ["a"]
space = {"lr": [0, 1]}
attention = "auto\""""


@pytest.fixture(scope="module")
def lab(place):
    lab = Lab(place / "lab")
    lab.experiment(parameters=NOTEBOOK)
    put(lab.root / "studies" / "best.yaml", b"parameters: {lr: 0.001}\n")
    return lab


def planned(lab, overrides=()):
    from bertvision.engine.forecast import forecast_table, plan_table
    from bertvision.engine.grid import load_study
    from bertvision.engine.plan import job_state, plan

    made = plan(load_study("small", overrides, root=lab.root), None, lab.out)
    return plan_table(made, {j.id: job_state(j) for j in made.jobs}), forecast_table(made)


def test_studies(lab):
    @fuzzed
    @given(yaml_files(STUDY))
    def check(raw):
        put(lab.root / "studies" / "small.yaml", raw)
        ask(planned, lab)

    check()


def test_recipes(lab):
    lab.study(json.dumps(STUDY))

    @fuzzed
    @given(yaml_files({"parameters": {"lr": 1e-3, "epochs": 2, "space": {"lr": [1, 2]}, "attention": "sdpa"}}))
    def check(raw):
        put(lab.root / "studies" / "best.yaml", raw)
        ask(planned, lab)

    try:
        check()
    finally:
        put(lab.root / "studies" / "best.yaml", b"parameters: {lr: 0.001}\n")


def test_values_of_set(lab):
    lab.study(json.dumps(STUDY))
    pairs = (b"lr=1e-3", b"learn.epochs=[1.0, 3.0]", b"space={lr: [0, 1]}", b"use.lr=0.5", b"attention=auto")

    @fuzzed
    @given(
        st.lists(
            st.sampled_from(pairs).flatmap(bent).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
            min_size=1,
            max_size=2,
        )
    )
    def check(overrides):
        ask(planned, lab, overrides)

    check()


def test_parameters_cells(place):
    lab = Lab(place / "cells")
    path = lab.experiment(parameters=NOTEBOOK)
    tree = json.loads(path.read_text())

    def with_source(raw):
        return json.dumps(
            tree
            | {"cells": [tree["cells"][0] | {"source": raw.decode("utf-8", "surrogateescape")}, *tree["cells"][1:]]}
        ).encode()

    @fuzzed
    @given(
        st.one_of(json_files(tree), bent(NOTEBOOK.encode()).map(with_source)),
        st.sampled_from(("lr", "task", "seed", "space", "x")),
        st.sampled_from(VALUES),
    )
    def check(raw, name, value):
        put(path, raw)
        known = ask(read_parameters, path)
        if known is not None:
            assert all(p.type and isinstance(p.help, str) for p in known.values())
        ask(check_parameters, path, {name: value})

    check()


@pytest.fixture(scope="module")
def stores(place):
    """Two small files of states, fp16 by token and int8 by example."""
    import torch

    from bertvision.data.batches import Tokens
    from bertvision.states.interface import Origin
    from bertvision.states.store import Writer

    tokens = Tokens(
        np.arange(9, dtype=np.int32),
        np.zeros(9, np.uint8),
        np.array([0, 4, 9]),
        np.array([0, 1]),
        ["train/0", "train/1"],
        0,
    )
    found = []
    for kind, dtype, rows in (("tokens", "fp16", 9), ("cls", "int8", 2)):
        path = place / f"{dtype}.h5"
        with Writer(
            path,
            tokens,
            Origin(
                "tiny-random", "w", "t", 4, (0, 2), kind, dtype, task="rte", split="train", max_length=5, notes={"a": 1}
            ),
        ) as writer:
            writer.append(np.arange(2), torch.randn(rows, 2, 4))
        found.append(path.read_bytes())
    return found


ARRAYS = st.sampled_from(
    [
        np.zeros(0),
        np.zeros((2, 2)),
        np.array(3),
        np.array([1, 0, 5]),
        np.array([0, 4, 2**40]),
        np.array([0, -3, 9]),
        np.arange(9.0),
        np.array([b"\xff", b"x"]),
        np.array(["é", "b"], h5py.string_dtype()),
        np.full(2, np.nan),
        np.zeros(9, np.uint8),
        np.zeros((9, 2, 4)),
        np.zeros((2, 2), np.float16),
        np.array([0, 4, 9]),
        np.array([0, 1]),
        None,
    ]
)
ATTRIBUTES = st.sampled_from(
    [
        None,
        0,
        -1,
        2**40,
        1.5,
        np.nan,
        "",
        "x",
        "int8",
        "fp32",
        "cls",
        "mean",
        "\ud83d",
        b"\xff",
        [0, 2],
        [0, 1, 2],
        [[1]],
        np.array([], int),
        "[" * 2000,
        "9" * 5000,
        "{}",
        "[]",
        h5py.Empty("f"),
    ]
)


def change_h5(path: Path, raw: bytes, changes: list):
    """A file of HDF5 with some attributes and datasets put in others' place; `None` takes them away."""
    put(path, raw)
    with h5py.File(path, "r+") as file:
        for where, which, value in changes:
            inside = file if where == "dataset" else file.attrs
            names = sorted(inside)
            if not names:
                continue
            name = names[which % len(names)]
            del inside[name]
            try:
                if value is not None:
                    inside[name] = value
            except (TypeError, ValueError):
                pass  # HDF5 itself cannot hold it


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("dataset"), st.integers(0, 20), ARRAYS),
        st.tuples(st.just("attribute"), st.integers(0, 20), ATTRIBUTES),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("which", [0, 1])
def test_stores_of_states(which, place, stores):
    from bertvision.states.store import open_states

    path = place / "store.h5"

    @fuzzed
    @given(st.one_of(bent(stores[which]), CHANGES))
    def check(made):
        if isinstance(made, bytes):
            put(path, made)
        else:
            change_h5(path, stores[which], made)
        stored = ask(open_states, path)
        if stored is None:
            return
        batch = stored.batch(np.arange(len(stored)))
        assert (
            batch.values.shape[1:] == (stored.layers, stored.width)
            and len(stored.labels) == len(stored.example_ids) == len(stored)
            and stored.fingerprint
            and repr(stored)
        )

    check()


def test_the_three_files_of_the_original(place, stores):
    from bertvision.states.padded import PARTS, read_original, write_original
    from bertvision.states.store import open_states

    folder = place / "original"
    write_original(open_states(put(place / "sound.h5", stores[0])), folder, "rte", 6)
    sound = {end: (folder / f"rte{end}").read_bytes() for end in PARTS.values()}

    @fuzzed
    @given(st.sampled_from(list(sound)), st.one_of(st.integers(0, 2**31), CHANGES), st.data())
    def check(end, made, data):
        for name, raw in sound.items():
            put(folder / f"rte{name}", raw)
        if isinstance(made, int):
            put(folder / f"rte{end}", data.draw(bent(sound[end])))
        else:
            change_h5(folder / f"rte{end}", sound[end], made)
        states = ask(read_original, folder, "rte")
        if states is not None and len(states):
            assert ask(states.batch, np.arange(len(states))) is None or len(states.labels) == len(states)

    check()


def test_vectors_of_texts(place):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bertvision.states.embed import read_vectors

    h5, parquet = place / "vectors.h5", place / "vectors.parquet"
    with h5py.File(h5, "w") as file:
        file["vectors"], file.attrs["encoder"], file.attrs["width"] = np.zeros((3, 4), np.float32), "tiny-random", 4
    table = pa.table(
        {"row": [0, 1, 2], "vector": pa.array([[0.0] * 4] * 3, pa.list_(pa.float32(), 4))}
    ).replace_schema_metadata({"bertvision": json.dumps({"width": 4})})
    pq.write_table(table, parquet)
    sound = {".h5": h5.read_bytes(), ".parquet": parquet.read_bytes()}

    @fuzzed
    @given(
        st.one_of(
            bent(sound[".h5"]).map(lambda raw: (h5, raw)),
            bent(sound[".parquet"]).map(lambda raw: (parquet, raw)),
            CHANGES.map(lambda changes: (h5, changes)),
        )
    )
    def check(made):
        path, change = made
        if isinstance(change, bytes):
            put(path, change)
        else:
            change_h5(path, sound[".h5"], change)
        found = ask(read_vectors, path)
        if found is not None:
            assert found[0].ndim == 2 and found[0].dtype == np.float32 and isinstance(found[1], dict)

    check()


def folder_of(place: Path, files: dict) -> dict:
    """The bytes of a folder's files."""
    return {name: (place / name).read_bytes() for name in files}


def tensors(sound: dict):
    """Files of safetensors with an array missing or of another kind, or damaged bytes."""

    def change(name, value):
        return safetensors_bytes(
            {k: (value if k == name else v) for k, v in sound.items() if k != name or value is not None}
        )

    odd = st.sampled_from(
        [
            None,
            np.zeros(0, np.int32),
            np.zeros((2, 2), np.float32),
            np.full(6, -7, np.int32),
            np.full(6, 10**6, np.int32),
            np.zeros(6, np.float64),
            np.full(6, np.nan, np.float32),
        ]
    )
    return st.one_of(bent(safetensors_bytes(sound)), st.builds(change, st.sampled_from(list(sound)), odd))


def test_clusters(place):
    from safetensors.numpy import load

    from bertvision.selection.clusters import cluster, load_clusters, save_clusters

    folder = place / "clusters"
    save_clusters(cluster(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), num_clusters=2), folder)
    sound = folder_of(folder, ("clusters.json", "clusters.safetensors"))

    @fuzzed
    @given(
        st.one_of(
            json_files(json.loads(sound["clusters.json"])).map(lambda raw: {"clusters.json": raw}),
            tensors(load(sound["clusters.safetensors"])).map(lambda raw: {"clusters.safetensors": raw}),
        )
    )
    def check(made):
        for name, raw in (sound | made).items():
            put(folder / name, raw)
        found = ask(load_clusters, folder)
        if found is not None:
            assert (
                len(found.labels) == len(found.distances)
                and found.sizes.sum() + found.noise == len(found.labels)
                and repr(found)
            )

    check()


def test_selections(place):
    from bertvision.selection.strategies import Pool
    from bertvision.selection.subsets import Selection, load_selection, save_selection, take

    folder = place / "selections"
    pool = Pool([f"train/{i}" for i in range(5)], np.array([0, 1, 0, 1, 0]), identity="p")
    save_selection(
        Selection("random", {"": ["train/0", "train/3"]}, "p", 5, 0, {"metric": "cosine"}, {"": 0.1}), folder
    )
    tree = read_json(folder / "random.json")

    @fuzzed
    @given(json_files(tree))
    def check(raw):
        put(folder / "random.json", raw)
        found = ask(load_selection, folder, "random")
        if found is None:
            return
        assert repr(found)
        for n in (0, 1, 2):
            chosen = ask(take, found, pool, n)
            assert chosen is None or all(isinstance(id, str) for id in chosen[0])

    check()


def test_trials_of_a_search(place):
    from bertvision.training.search import load_search, search

    path = place / "trials.json"
    search(
        {"lr": {"loguniform": [1e-5, 1e-3]}, "head": {"choice": ["a", "b"]}},
        lambda many: [p["lr"] for p in many],
        trials=2,
        path=path,
    )
    tree = read_json(path)

    @fuzzed
    @given(json_files(tree))
    def check(raw):
        found = ask(load_search, put(path, raw))
        if found is not None:
            assert repr(found) and len(found.table()) == len(found.trials) and ask(found.proposals, 1) is not None

    check()


def test_probes(place):
    from safetensors.numpy import load

    from bertvision.data.tasks import get_task
    from bertvision.heads.heads import build_head
    from bertvision.probing.probes import _score_labels, load_probes, save_probes

    folder, task = place / "probes", get_task("rte")
    save_probes(
        folder,
        {"layer-1:cls": build_head("layer-1:cls", 3, 4, 2)},
        {
            "task": "rte",
            "encoder": "tiny-random",
            "checkpoint": "",
            "side": "pretrained",
            "seed": 0,
            "weights": "w",
            "layers": 3,
            "width": 4,
            "kind": "cls",
            "max_length": 8,
            "doc_stride": 4,
            "epoch": 1,
            "thresholds": {},
        },
    )
    sound = folder_of(folder, ("probes.json", "probes.safetensors"))
    rows = {"example_id": ["v/0", "v/1"], "label": [0, 1]}

    @fuzzed
    @given(
        st.one_of(
            json_files(json.loads(sound["probes.json"])).map(lambda raw: {"probes.json": raw}),
            tensors(load(sound["probes.safetensors"])).map(lambda raw: {"probes.safetensors": raw}),
            json_files({"v/0": "entailment", "v/1": "not_entailment"}).map(lambda raw: {"said.json": raw}),
        )
    )
    def check(made):
        for name, raw in (sound | made).items():
            put(folder / name, raw)
        if "said.json" in made:
            ask(_score_labels, task, rows, folder / "said.json")
        found = ask(load_probes, folder)
        if found is not None:
            assert repr(found) and all(p.ndim >= 1 for head in found.heads.values() for p in head.parameters())

    check()


def test_checkpoints_of_a_fit(place):
    import torch
    from safetensors.numpy import load

    from bertvision.runs.recipes import Recipe
    from bertvision.training.optimizers import make_optimizer, make_schedule
    from bertvision.training.trainer import TrainerState, load_checkpoint, save_checkpoint

    def made():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 2)
        optimizer = make_optimizer(model, Recipe())
        return model, optimizer, make_schedule(optimizer, Recipe(), 10)

    folder, (model, optimizer, schedule) = place / "checkpoints", made()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_checkpoint(folder, model, optimizer, schedule, TrainerState(step=1, history=[{"step": 1}]), "me")
    (step,) = folder.iterdir()
    sound = folder_of(step, [p.name for p in step.iterdir()])
    state = torch.random.get_rng_state()

    @fuzzed
    @given(
        st.one_of(
            json_files(json.loads(sound["standing.json"])).map(lambda raw: {"standing.json": raw}),
            *(
                tensors(load(sound[name])).map(lambda raw, name=name: {name: raw})
                for name in sound
                if name.endswith(".safetensors")
            ),
        )
    )
    def check(changed):
        for name, raw in (sound | changed).items():
            put(step / name, raw)
        model, optimizer, schedule = made()
        standing = ask(load_checkpoint, folder, model, optimizer, schedule, "me")
        if standing is None:
            return
        assert standing.step >= 0 and standing.epoch >= 0 and isinstance(standing.history, list)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step(), schedule.step()

    try:
        check()
    finally:
        torch.random.set_rng_state(state)
