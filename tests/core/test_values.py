"""Values that people write: one reader for --set, studies, tasks and recipes, and types checked to the last element."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_lab import Lab

from bertvision.core.errors import ParameterError, StudyError
from bertvision.data import tasks
from bertvision.data.files import parse_yaml
from bertvision.engine.grid import load_study, parse_overrides
from bertvision.runs.parameters import check_parameters

PARAMETERS = """task = "cola"
encoder = "tiny-random"
seed = 0
steps = 100
lr = 1e-4
batch_size = 16
keep_model = False
lrs = [1e-2, 1e-3]
heads = ["a", "b"]
languages = []
grid = [[1, 2], [3]]
space = {}
anything = None
out_dir = ""
"""


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment(parameters=PARAMETERS)
    return lab


@pytest.mark.parametrize(
    "text, value",
    [
        ("0100", 100),
        ("-007", -7),
        ("08", 8),
        ("+5", 5),
        ("0o100", 64),
        ("0x1F", 31),
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1:20", "1:20"),
        ("12:30:45.5", "12:30:45.5"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1e", "1e"),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("=", "="),
        ("2026-11-30", "2026-11-30"),
        ("2026-11-30 10:00:00", "2026-11-30 10:00:00"),
        ("'0100'", "0100"),
        ('"yes"', "yes"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[010, 1:20, no]", [10, "1:20", "no"]),
        ("{a: 0o10}", {"a": 8}),
    ],
)
def test_values_are_those_of_yaml_1_2(text, value):
    found = parse_yaml(text, "x")
    assert found == value and type(found) is type(value)


MERGES = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(400)) + "}\nb: {<<: [" + ", ".join(["*a"] * 300) + "]}"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: 1\nb: [", "x, line 2: not YAML"),
        ("a: 1\nb: 2\na: 3", "x, line 3: not usable YAML .'a' is given twice"),
        ("'a': 1\na: 2", "'a' is given twice"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 3000, "nested more than 100 deep"),
        ("!!python/object/apply:os.getcwd []", "unknown type"),
        ("a: !!timestamp 2001-12-14", "unknown type"),
        ("!!set {a}", "unknown type"),
        ("!!int 1:20", "'1:20': expected a value of type int"),
        ("1e999", "too large for a number"),
        ("9" * 5000, "too large for a number"),
        ("? [a]\n: 1", "a key is a list"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("%YAML 1.1\n---\na: yes", "expected YAML 1.2"),
        (r'"\ud800"', "surrogate"),
        ("<<: 3", "expected a mapping"),
        (MERGES, "more than 100,000 keys"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_line(text, reason):
    with pytest.raises(StudyError, match=reason):
        parse_yaml(text, "x")


def test_references_and_merged_mappings_stay():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {x: 5, z: 1}]}\nd: [*a]"
    a = {"x": 1, "y": 2}
    assert parse_yaml(text, "x") == {"a": a, "b": {"x": 1, "y": 3}, "c": {**a, "z": 1}, "d": [a]}


CURIOUS = [
    "0100",
    "0o7",
    "0x1",
    "1e3",
    "1:20",
    "yes",
    "true",
    "~",
    "",
    "null",
    ".inf",
    "<<",
    "- a",
    "a: b",
    "# x",
    "'",
    '"',
    "2026-11-30",
    "!x",
    "&a",
    "*a",
    "...",
    "---",
    "a\n\nb ",
    " x",
    "\u2028",
    "%YAML 1.1",
    "\x85",
    "\ufeff",
]
WORDS = st.one_of(st.text(max_size=8), st.sampled_from(CURIOUS))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.one_of(WORDS, st.integers(-(10**20), 10**20), FLOATS, st.booleans(), st.none())


def branches(inner):
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4))


@settings(deadline=None)
@given(st.recursive(PLAIN, branches, max_leaves=12))
def test_what_is_written_is_read_back(value):
    from bertvision.data.files import format_yaml

    found = parse_yaml(format_yaml(value), "x")
    assert json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_set_studies_and_recipes_read_alike(lab):
    assert lab.plan("steps=0100").jobs[0].parameters["steps"] == 100
    with pytest.raises(ParameterError, match="batch_size = '1:20': expected int, got str"):
        lab.plan("batch_size=1:20")
    with pytest.raises(ParameterError, match="keep_model = 'no': expected bool, got str"):
        lab.plan("keep_model=no")
    head = "tasks: [toy-sentiment]\nencoders: [tiny-random]\n"
    lab.study(head + "seeds: [010, 0o10]\nsteps: {learn: {recipe: best.yaml}}")
    (lab.root / "studies/best.yaml").write_text("parameters: {steps: 0100, lr: 1e-4}")
    jobs = lab.plan().jobs
    assert [j.grid["seed"] for j in jobs] == [10, 8] and jobs[0].parameters["steps"] == 100


@pytest.mark.parametrize(
    "words, seeds", [(["010,0o10", "3"], [10, 8, 3]), (["1_0"], None), (["1:20"], None), (["a"], None), (["["], None)]
)
def test_seeds_of_the_command_line_are_read_alike(words, seeds):
    from bertvision.cli import _numbers

    if seeds:
        assert _numbers(words) == seeds
    else:
        with pytest.raises(ParameterError, match="--seeds"):
            _numbers(words)


@pytest.mark.parametrize("labels", ["[yes, no]", "{yes: yes, no: no}"])
def test_labels_of_an_own_task_are_text(tmp_path, labels):
    (tmp_path / "train.tsv").write_text("words\tanswer\nfine\tyes\nbad\tno\n")
    about = "name: mine\nkind: classification\ntext: words\nlabel: answer\nmetrics: accuracy\n"
    (tmp_path / "mine.yaml").write_text(
        f"{about}labels: {labels}\nfiles: {{train: train.tsv, validation: train.tsv}}\n"
    )
    assert tasks.get_task(tmp_path / "mine.yaml").labels == ("yes", "no")


def test_overrides_of_a_dictionary_are_repeated_by_the_command(lab):
    given = {"heads": ["1e3", "no"], "steps": 7, "lr": 1e-5, "keep_model": False, "anything": "0100"}
    study = load_study("small", given, root=lab.root)
    words = [pair for flag, pair in zip(study.call, study.call[1:]) if flag == "--set"]
    assert parse_overrides(words) == given


FAULTS = [
    ({"lrs": [1e-3, "x"]}, "learn: lrs[1] = 'x': expected float, got str"),
    ({"lrs": [1e-3, math.inf]}, "lrs[1] = inf: expected a finite number"),
    ({"lrs": [True]}, "lrs[0] = True: expected float, got bool"),
    ({"lrs": ["1e-3"]}, "lrs[0] = '1e-3': expected float, got str: write 1e-3, without quotes"),
    ({"heads": ["a", 1]}, "heads[1] = 1: expected str, got int"),
    ({"heads": "a"}, "heads = 'a': expected list, got str"),
    ({"languages": ["zh", 1]}, "languages[1] = 1: expected text as at the start of the list, got number"),
    ({"grid": [[1], [2, "x"]]}, "grid[1][1] = 'x': expected int"),
    ({"grid": [1]}, "grid[0] = 1: expected list"),
    ({"space": {"lr": {"uniform": [0.0, math.nan]}}}, "space['lr']['uniform'][1] = nan: expected a finite number"),
    ({"space": {1: 2}}, "space: the key 1 is int, expected text"),
    ({"space": {"a": (1, 2)}}, "got tuple"),
    ({"anything": {"a": [math.inf]}}, "anything['a'][0] = inf"),
    ({"steps": 1e2}, "steps = 100.0: expected int, got float: write 100"),
    ({"steps": 1.5}, "steps = 1.5: expected int, got float"),
    ({"keep_model": "false"}, "keep_model = 'false': expected bool, got str: write False"),
    ({"lr": math.nan}, "lr = nan: expected a finite number"),
    ({"learning_rate": 1e-4}, "unknown parameter 'learning_rate' (did you mean 'lr'?)"),
    ({"num_train_steps": 5}, "(did you mean 'steps'?)"),
]


@pytest.mark.parametrize("given, reason", FAULTS, ids=lambda x: None if isinstance(x, dict) else x[:20])
def test_types_are_checked_to_the_last_element(lab, given, reason):
    with pytest.raises(ParameterError) as e:
        check_parameters(lab.root / "experiments/learn.ipynb", given)
    assert reason in str(e.value)


def test_whole_numbers_become_floats_where_floats_are_expected(lab):
    given = {
        "lr": 1,
        "lrs": [1, 1e-3],
        "languages": ["zh", "en"],
        "grid": [],
        "space": {"a": [1, None]},
        "anything": "x",
    }
    full = check_parameters(lab.root / "experiments/learn.ipynb", given)
    assert (full["lr"], full["lrs"], type(full["lrs"][0])) == (1.0, [1.0, 1e-3], float)
    assert full["grid"] == [] and full["languages"] == ["zh", "en"]
