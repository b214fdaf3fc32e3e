"""Runs by hand: refused in the notebook itself, kept in a place of their own, and honest about how they ended."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from study_lab import Lab

from bertvision.core.errors import OutputError
from bertvision.core.io import read_json, resources, write_json
from bertvision.runs import run as runs
from bertvision.runs.parameters import notebook_cells, read_parameters
from bertvision.runs.recipes import Recipe
from bertvision.runs.records import read_record
from bertvision.runs.run import Run

EXPERIMENTS = sorted((resources() / "experiments").glob("*.ipynb"))
CHECK = 'from bertvision.runs.run import checked_parameters, Run\nparameters = checked_parameters("learn", globals())'
START = 'run = Run.start("learn", parameters, out_dir, seed)'
FINISH = 'record = run.finish({"validation": {"accuracy": 0.5 + seed / 10}})'
PARAMETERS = 'task = "cola"\nseed = 0\nlr = 1e-4\nkeep_model = False\nlayers = [1, 2]\nout_dir = ""'


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("BERTVISION_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs" / "by-hand"


@pytest.fixture
def notebook(tmp_path):
    lab = Lab(tmp_path / "lab")
    return lab.experiment(CHECK, START, FINISH, parameters=PARAMETERS)


def papermill(notebook, target, *words) -> subprocess.CompletedProcess:
    """What a person types: papermill's own command."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(target), "--no-progress-bar", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def started(target) -> int:
    """Code cells of an executed notebook that were started; what papermill adds to say what went wrong is left out."""
    code = [c for c in read_json(target)["cells"] if c["cell_type"] == "code"]
    return sum(c["execution_count"] is not None for c in code)


@pytest.mark.parametrize(
    "words, reason",
    [
        (("learning_rate", "1e-4"), "finetune: unknown parameter 'learning_rate' (did you mean 'lr'?)"),
        (("epochs", "many"), "finetune: epochs = 'many': expected float, got str"),
        (
            ("keep_model", "false"),
            "finetune: keep_model = 'false': expected bool, got str: write False, without quotes",
        ),
    ],
)
def test_papermill_by_hand_ends_in_one_clear_error_before_any_training(outputs, tmp_path, words, reason):
    notebook, out = resources() / "experiments" / "finetune.ipynb", tmp_path / "out"
    done = papermill(notebook, tmp_path / "out.ipynb", "-p", *words, "-p", "out_dir", out)
    assert done.returncode == 1 and done.stderr.rstrip().splitlines()[-1].startswith(f"ParameterError: {reason}")
    executed = read_json(tmp_path / "out.ipynb")["cells"]
    failing = next(i for i, c in enumerate(executed) if any(o["output_type"] == "error" for o in c.get("outputs", [])))
    assert "checked_parameters" in "".join(executed[failing]["source"])
    later = [c for c in executed[failing + 1 :] if c["cell_type"] == "code"]
    assert len(later) > 5 and all(c["execution_count"] is None for c in later)
    record = read_record(out)
    assert record["status"] == "failed" and record["failure"]["reason"].startswith(f"ParameterError: {reason}")


def test_the_check_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from bertvision.core.io import resources\n"
        "from bertvision.runs.parameters import read_parameters; from bertvision.runs.run import checked_parameters\n"
        "given = {n: p.default for n, p in read_parameters(resources() / 'experiments/finetune.ipynb').items()}\n"
        "checked_parameters('finetune', given)\n"
        "assert not {'torch', 'transformers', 'pandas', 'datasets', 'IPython'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_papermill_by_hand_leaves_a_run_where_its_last_line_says(outputs, notebook, tmp_path):
    for words in (("lr", "1"), ("lr", "1.0"), ("lr", "0.5")):
        done = papermill(notebook, tmp_path / "out.ipynb", "-p", *words)
        assert done.returncode == 0, done.stderr
    folders = sorted(outputs.iterdir())
    assert len(folders) == 2 and all(re.fullmatch(r"learn\.cola\.s0-[0-9a-f]{6}", f.name) for f in folders)
    records = {r["parameters"]["lr"]: r for r in map(read_record, folders)}
    assert set(records) == {1.0, 0.5} and type(records[1.0]["parameters"]["lr"]) is float
    assert all(r["status"] == "done" and not {"out_dir", "drive"} & set(r["parameters"]) for r in records.values())
    told = read_json(tmp_path / "out.ipynb")["cells"][-1]["outputs"][0]["text"]
    place = re.search(r"The run is in (\S+)\. Next: .* import read_record; read_record\('(\S+)'\)", "".join(told))
    assert place[1] == place[2] and (tmp_path / place[1]).resolve() in folders


@pytest.mark.parametrize("words", [("-p", "lr", "x"), ("-p", "lrr", "1"), ("-y", 'layers: [1, "a"]')])
def test_an_experiment_of_ones_own_is_checked_by_its_own_cell(outputs, notebook, tmp_path, words):
    done = papermill(notebook, tmp_path / "out.ipynb", *words)
    assert done.returncode == 1 and "ParameterError: learn: " in done.stderr and started(tmp_path / "out.ipynb") == 3
    assert not outputs.exists()


@pytest.fixture
def kernel(outputs):
    """Runs cells one after the other, as a person does in JupyterLab; returns each cell's error."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    hooks = sys.displayhook, sys.excepthook
    shell = InteractiveShell.instance(config=config)

    def run(*cells):
        results = [shell.run_cell(cell, store_history=True) for cell in cells]
        return results[-1].error_in_exec or results[-1].error_before_exec

    yield run
    runs._unwatch()
    for handle in runs._held.values():
        handle.close()
    runs._held.clear()
    InteractiveShell.clear_instance()
    sys.displayhook, sys.excepthook = hooks


def test_a_cell_that_is_run_again_counts_as_it_is_now(kernel, capsys):
    wrong = "# Parameters\nlr = '1e-4'\n"
    assert "lr = '1e-4': expected float, got str: write 1e-4, without quotes" in str(kernel(PARAMETERS, wrong, CHECK))
    assert kernel(PARAMETERS, CHECK, START, FINISH) is None
    assert kernel(PARAMETERS + "\nsteps = 10", "x = 1", CHECK, "assert parameters['steps'] == 10") is None
    assert "unknown parameter 'lrr'" in str(kernel(PARAMETERS, "# Parameters\nlrr = 0.1\n", CHECK))
    assert kernel("# Parameters\nlr = 0.1\n", CHECK, "assert parameters['lr'] == 0.1", START, FINISH) is None


def packaged_cell() -> str:
    cells = notebook_cells(resources() / "experiments/finetune.ipynb")
    return next(c["source"] for c in cells if "parameters" in c["tags"])


def test_a_name_added_by_hand_is_refused_where_the_package_knows_the_experiment(kernel, capsys):
    check = CHECK.replace("learn", "finetune")
    added = str(kernel(packaged_cell() + "\nlearning_rate = 1e-4", check))
    assert "unknown parameter 'learning_rate' (did you mean 'lr'?)" in added
    renamed = re.sub(r"^lr ", "lrr ", packaged_cell(), flags=re.M)
    assert "unknown parameter 'lrr'" in str(kernel(renamed, check))
    removed = re.sub(r"^lr .*\n", "", packaged_cell(), flags=re.M)
    assert "the parameters cell lacks lr" in str(kernel(removed, check))
    whole = packaged_cell().replace("epochs = 6.0", "epochs = 6")
    assert kernel(whole, check, "assert type(parameters['epochs']) is type(epochs) is float") is None


def test_a_cell_that_fails_turns_running_into_failed_and_going_on_into_done(kernel, outputs, capsys):
    kernel(PARAMETERS, CHECK, START)
    folder = next(outputs.iterdir())
    assert read_record(folder)["status"] == "running"
    kernel("x = 1\n1 / 0")
    failed = read_record(folder)
    assert failed["status"] == "failed" and failed["failure"]["reason"] == "ZeroDivisionError: division by zero"
    assert failed["failure"]["source"] == "x = 1" and any("1 / 0" in line for line in failed["failure"]["traceback"])
    kernel("def (")
    assert read_record(folder)["failure"]["reason"].startswith("SyntaxError")
    kernel(FINISH)
    done = read_record(folder)
    assert done["status"] == "done" and done["failure"] is None
    kernel("1 / 0")
    assert read_record(folder)["status"] == "done"


def test_a_start_that_fails_leaves_a_record_where_a_folder_was_named(kernel, tmp_path, capsys):
    named = PARAMETERS.replace('out_dir = ""', f"out_dir = {str(tmp_path / 'mine')!r}")
    kernel(named, "# Parameters\ntask = 3\nseed = 'x'\n", CHECK)
    record = read_record(tmp_path / "mine")
    reason = "ParameterError: learn: task = 3: expected str, got int"
    assert (record["status"], record["failure"]["reason"], record["task"]) == ("failed", reason, None)
    kernel(named, CHECK, "raise ValueError('no such file')")
    assert read_record(tmp_path / "mine")["failure"]["reason"] == "ValueError: no such file"
    kernel(named, CHECK, START, FINISH)
    kernel(named, "# Parameters\nlrr = 1\n", CHECK)
    assert read_record(tmp_path / "mine")["status"] == "done"


def test_a_finished_run_of_other_parameters_is_refused_not_replaced(outputs, tmp_path, capsys):
    Run.start("learn", {"lr": 1e-4}, tmp_path / "mine").finish({"validation": {"accuracy": 0.5}})
    before = (tmp_path / "mine" / "record.json").read_bytes()
    for experiment, lr, seed, reason in (
        ("learn", 1e-3, 0, "with lr = 0.0001; this one has lr = 0.001"),
        ("learn", 1e-4, 1, "with seed = 0; this one has seed = 1"),
        ("other", 1e-4, 0, "with learn; this one has other"),
    ):
        with pytest.raises(OutputError, match=reason):
            Run.start(experiment, {"lr": lr}, tmp_path / "mine", seed)
    assert (tmp_path / "mine" / "record.json").read_bytes() == before
    again = Run.start("learn", {"lr": 1e-4}, tmp_path / "mine")
    assert again.record["attempt"] == 1
    assert Run.start("learn", {"lr": 1e-4}, tmp_path / "mine").record["attempt"] == 2
    assert Run.start("learn", {"lr": 1e-3}, tmp_path / "mine").record["attempt"] == 1
    runs._held.pop((tmp_path / "mine").resolve()).close()


def test_a_folder_of_a_study_is_refused_to_other_parameters(outputs, tmp_path):
    known = read_parameters(resources() / "experiments/finetune.ipynb")
    given = {name: p.default for name, p in known.items()} | {"out_dir": str(tmp_path / "run")}
    planned = given | {"out_dir": ".", "lr": 1e-3}
    job = {"study": "small", "step": "finetune", "run": "finetune.s0", "fingerprint": "a", "parts": {}}
    write_json(tmp_path / "run" / "job.json", job | {"parameters": planned})
    assert runs.checked_parameters("finetune", dict(given))["lr"] == 1e-3
    reason = "belongs to run finetune.s0 of the study small, with lr = 0.001; this one has lr = 0.0001"
    with pytest.raises(OutputError, match=reason):
        runs.checked_parameters("finetune", given | {"lr": 1e-4})
    assert not (tmp_path / "run" / "record.json").exists()


def test_where_runs_by_hand_go(tmp_path, monkeypatch):
    monkeypatch.delenv("BERTVISION_OUTPUTS")
    (tmp_path / "lab" / "experiments" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lab" / "experiments" / "deep")
    assert runs.outputs_folder() == tmp_path / "lab" / "experiments" / "deep" / "outputs"
    (tmp_path / "lab" / "outputs").mkdir()
    assert runs.outputs_folder() == tmp_path / "lab" / "outputs"
    monkeypatch.setenv("BERTVISION_OUTPUTS", "~/elsewhere")
    assert runs.outputs_folder() == (tmp_path.home() / "elsewhere").resolve()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_checks_its_parameters_first_and_records_them(path):
    code = [c for c in notebook_cells(path) if c["type"] == "code" and "declaration" not in c["tags"]]
    at = next(i for i, c in enumerate(code) if "parameters" in c["tags"])
    assert f'parameters = checked_parameters("{path.stem}", globals())' in code[at + 1]["source"]
    assert not any(re.search(r"^(?:import|from) (?!sys\b)", c["source"], re.M) for c in code[: at + 1])
    rest = "\n".join(c["source"] for c in code[at + 2 :])
    assert re.search(rf'Run\.start\(\s*"{path.stem}",\s*parameters\b', rest)
    assert not re.search(r"^\s*parameters = ", rest, re.M)


def test_a_fine_tuning_leaves_no_hyper_parameter_out():
    names = read_parameters(resources() / "experiments/finetune.ipynb")
    assert not {f.name for f in fields(Recipe)} - set(names)
    for path in EXPERIMENTS:
        source = "\n".join(c["source"] for c in notebook_cells(path) if c["type"] == "code")
        assert "recipe = Recipe(" not in source, f"{path.stem}: use Recipe.from_parameters, which forgets nothing"
