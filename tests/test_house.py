"""Rules of the house: notebooks and modules belong together, imports run downwards, nothing names a machine."""

import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
ROOMS = re.findall(r"^\| `(\w+)` \|", (ROOT / "nbs" / "README.md").read_text(encoding="utf-8"), re.M)
LIBRARY = [p for p in NBS if p.relative_to(ROOT / "nbs").with_suffix("").parts[0] in ROOMS]
HOME = re.compile(r"(?<![\w.])/(home|Users|root|work|tmp)/[^\s\"'\\]*")
EXPERIMENTS = [p for p in NBS if p.parent.name == "experiments"]


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def module_of(path):
    for cell in cells(path):
        if found := re.search(r"^#\|\s*default_exp\s+(\S+)", source(cell), re.M):
            return found[1]


def test_every_library_notebook_makes_one_module_and_every_module_has_its_notebook():
    made = [module_of(p) for p in LIBRARY]
    assert None not in made and len(set(made)) == len(made)
    modules = {
        ".".join(p.relative_to(ROOT / "bertvision").with_suffix("").parts) for p in (ROOT / "bertvision").rglob("*.py")
    }
    assert {m for m in modules if not m.endswith("__init__")} - {"_modidx"} == set(made)


def imported(path):
    """Modules of the package that a module imports; nbdev has made the imports relative, so the dots count."""
    package = path.relative_to(ROOT / "bertvision").parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        inside = node.level or (node.module or "").split(".")[0] == "bertvision"
        if not inside:
            continue
        base = list(package[: len(package) - node.level + 1]) if node.level else []
        name = ".".join(base + (node.module or "").split(".")[0 if node.level else 1 :]).strip(".")
        yield name
        yield from (f"{name}.{a.name}".strip(".") for a in node.names)


def module_file(module):
    return ROOT / "bertvision" / (module.replace(".", "/") + ".py")


def place_of(path):
    """Number of the room, and the notebook's number in it."""
    room = path.parent.name if path.parent.name in ROOMS else path.stem
    return ROOMS.index(room), path.name


def test_a_notebook_lies_in_the_room_of_its_module():
    for path in LIBRARY:
        room, _, name = module_of(path).rpartition(".")
        assert path.relative_to(ROOT / "nbs").parent.as_posix() == (room or "."), path
        assert re.fullmatch(rf"\d\d_{name}" if room else name, path.stem), f"{path} makes {module_of(path)}"
    assert {p.parent.name for p in LIBRARY} | {"cli"} == {*ROOMS, "nbs"}


def test_imports_run_downwards():
    place = {module_of(p): place_of(p) for p in LIBRARY}
    found = {module: {m for m in imported(module_file(module)) if m in place} for module in place}
    assert "core.io" in found["runs.run"] and "data.tasks" in found["data.sources"], "the test no longer sees imports"
    upward = [f"{module} imports {m}" for module, names in found.items() for m in names if place[m] >= place[module]]
    assert not upward


def texts_of(module):
    """String constants of a module that are no docstrings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_the_engine_names_no_experiment():
    names = re.compile(r"(?<![\w-])(" + "|".join(p.stem for p in EXPERIMENTS) + r")(?![\w-])")
    assert names.search("of train_heads runs"), "the test no longer sees names"
    modules = sorted((ROOT / "bertvision" / "engine").glob("*.py"))
    assert not [(m.name, text) for m in modules for text in texts_of(m) if names.search(text)]


KNOWN_TO_ALL = ("attention", "steps", "train_examples", "report_examples")  # parameters that mean the same everywhere
KEYS = ("head", "metric", "examples")  # of records and tables, and parameters of some experiment, too


def test_the_engine_names_no_parameter_of_a_single_experiment():
    from bertvision.engine.declaration import GENERAL
    from bertvision.runs.parameters import read_parameters
    from bertvision.runs.recipes import RULES

    own = {name for path in EXPERIMENTS for name in read_parameters(path)}
    own -= {*GENERAL, *RULES, *KNOWN_TO_ALL, *KEYS}
    assert {"corpus", "checkpoint", "finetune_dir", "keep_model", "probe_examples"} <= own, "the test sees no names"
    modules = sorted((ROOT / "bertvision" / "engine").glob("*.py"))
    assert not [(m.name, text) for m in modules for text in texts_of(m) if text in own]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_declares_what_it_reads(path):
    from bertvision.engine.declaration import read_declaration
    from bertvision.runs.parameters import read_parameters

    declared = read_declaration(path)
    inputs = {
        name for name in read_parameters(path) if name.endswith("_dir") or name in ("corpus", "cluster_input", "hans")
    }
    assert inputs - {"out_dir"} <= set(declared.reads)
    assert declared.shared == any("run.main_only()" in source(c) for c in cells(path))


def recipe_class(tree, name):
    """The class that a notebook has imported under a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            return getattr(importlib.import_module(node.module), name)


def names_used(sources):
    """Parameters that cells use: as variables, as `parameters["name"]`, or by name through `from_parameters`."""
    tree = ast.parse("\n".join(sources))
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "parameters":
            used.add(getattr(node.slice, "value", ""))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_parameters":
            passed = {f.name for f in dataclasses.fields(recipe_class(tree, node.func.value.id))}
            used |= passed - {k.arg for k in node.keywords}
    return used


def test_a_forgotten_parameter_is_seen():
    recipe = "from bertvision.runs.recipes import Recipe\n"
    assert {"lr", "schedule", "average"} <= names_used([recipe + "recipe = Recipe.from_parameters(parameters)"])
    assert "lr" not in names_used([recipe + "recipe = Recipe.from_parameters(parameters, lr=1e-3)"])
    assert "average" not in names_used([recipe + "recipe = Recipe(lr=lr, schedule=schedule)"])
    assert "size" in names_used(['build(parameters["size"])']) and "size" not in names_used(["size = 3"])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_parameter_of_an_experiment_is_used(path):
    from bertvision.engine.fingerprint import notebook_code
    from bertvision.runs.parameters import read_parameters

    unused = set(read_parameters(path)) - names_used(notebook_code(path))
    assert not unused, f"{path.name}: no cell uses {', '.join(sorted(unused))}"


@pytest.mark.parametrize("path", EXPERIMENTS + [p for p in NBS if p.parent.name == "reports"], ids=lambda p: p.stem)
def test_papermill_finds_one_parameters_cell(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1 and tagged[0]["cell_type"] == "code"
    for line in filter(None, source(tagged[0]).splitlines()):
        assert "#" in line, f"no help for: {line}"
    assert "colab-badge" in source(cells(path)[0])


def is_one_definition(cell):
    """A class, a function, a table or a cell of parameters is not cut in two."""
    if "parameters" in cell["metadata"].get("tags", []):
        return True
    return source(cell).startswith("#| export") and len(ast.parse(source(cell)).body) == 1


@pytest.mark.parametrize("path", NBS, ids=lambda p: p.stem)
def test_notebook_is_fit_to_be_committed(path):
    text = path.read_text(encoding="utf-8")
    nb = json.loads(text)
    assert nb["metadata"]["kernelspec"].get("language") == "python", "papermill needs kernelspec.language"
    assert len(text) < 320_000
    for i, cell in enumerate(nb["cells"]):
        if cell["cell_type"] != "code":
            continue
        longest = 80 if is_one_definition(cell) else 40
        assert source(cell).count("\n") < longest, f"cell {i} is too long to read"
        assert not any(out.get("output_type") == "error" for out in cell["outputs"]), (
            f"cell {i} was saved with an error"
        )
    assert not HOME.search(text), f"names a path of a machine: {HOME.search(text)[0]}"


def test_nbdev_is_told_what_settings_ini_says():
    """nbdev 3 reads pyproject.toml, setup.py reads settings.ini: what stands in both is the same."""
    import bertvision

    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    assert (project["name"], bertvision.__version__) == (settings["lib_name"], settings["version"])
    assert project["urls"] == {"Repository": settings["git_url"]}
    for key, value in pyproject["tool"]["nbdev"].items():
        written = settings.getboolean(key) if isinstance(value, bool) else settings[key]
        assert written == (" ".join(value) if isinstance(value, list) else value), key


def test_saving_in_jupyterlab_changes_nothing():
    """The hook of `nbdev-install-hooks` takes away what JupyterLab adds, and leaves papermill's tags."""
    from nbdev.clean import clean_jupyter

    for path in EXPERIMENTS:
        committed = json.loads(path.read_text(encoding="utf-8"))
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved["metadata"]["language_info"] = {"name": "python"}
        saved["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        for cell in saved["cells"]:
            cell["metadata"] |= {"execution": {}, "trusted": True}
        clean_jupyter(None, {"type": "notebook", "content": saved})
        assert saved == committed, path


def test_results_name_no_machine():
    tracked = subprocess.run(["git", "ls-files", "outputs"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    for name in tracked:
        if not name.endswith((".png", ".parquet")):
            found = HOME.search((ROOT / name).read_text(encoding="utf-8"))
            assert not found, f"{name} names a path of a machine: {found[0]}"


def test_readme_is_fresh():
    from bertvision.reporting.readme import update_readme

    assert update_readme(check=True, root=ROOT), "README.md is stale: run `bertvision readme` and commit it"


def test_import_is_quick():
    heavy = ("torch", "transformers", "datasets", "pandas", "numpy")
    code = f"import sys, bertvision; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    import bertvision

    for name in bertvision.__all__:
        assert getattr(bertvision, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = bertvision.fitt


_PICKLES = "dill|cloudpickle|joblib|shelve|marshal"
FORBIDDEN = {  # what could run code that stands in a file, and calls that hand it to a shell
    "pickle": rf"\b(?:c?pickle|{_PICKLES})\b(?=\s*[.(]|\s+import)"
    rf"|^\s*(?:import|from)\s+(?:pickle|{_PICKLES})\b|read_pickle|to_pickle",
    "torch.load": r"\btorch\.(?:load|save|jit\.load)\s*\(",
    "numpy objects": r"allow_pickle\s*=\s*True|\b(?:np|numpy)\.load\s*\(",
    "YAML objects": r"yaml\.(?:unsafe_load|full_load|UnsafeLoader|FullLoader|Loader\b|load\()"
    r"""|typ\s*=\s*["'](?!safe)""",
    "code": r"(?<![\w.])(?:eval|exec|compile|__import__)\s*\(",
    "shell": r"shell\s*=\s*True|os\.(?:system|popen)\s*\(",
    "remote code": r"trust_remote_code\s*=\s*(?!False)",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_from_elsewhere_are_data_only(what):
    seen = {
        "pickle": "import pickle",
        "torch.load": "torch.load(x)",
        "numpy objects": "np.load(x)",
        "YAML objects": "yaml.load(text)",
        "code": "x = eval(y)",
        "shell": "run(x, shell=True)",
        "remote code": "trust_remote_code=True",
    }
    assert re.search(FORBIDDEN[what], seen[what], re.M), "the test no longer sees such calls"
    sources = [(p, p.read_text(encoding="utf-8")) for p in (ROOT / "bertvision").rglob("*.py")]
    sources += [
        (p, "\n".join(source(c) for c in cells(p) if c["cell_type"] == "code"))
        for p in NBS
        if p.parent.name in ("experiments", "reports")
    ]
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p, text in sources for m in re.finditer(FORBIDDEN[what], text, re.M)]
    assert not found


def test_yaml_is_read_and_written_in_one_place():
    files = ROOT / "bertvision" / "data" / "files.py"
    assert "from ruamel.yaml import YAML" in files.read_text(encoding="utf-8"), "the test no longer sees the library"
    sources = {
        p: p.read_text(encoding="utf-8") for folder in ("bertvision", "tests") for p in (ROOT / folder).rglob("*.py")
    }
    sources |= {p: "\n".join(source(c) for c in cells(p) if c["cell_type"] == "code") for p in NBS}
    library = re.compile(
        r"^\s*(?:import yaml|from yaml|import ruamel|from ruamel)\b|\byaml\.(?:safe_)?(?:load|dump)\(", re.M
    )
    own = ("files.py", "00_files.ipynb", Path(__file__).name)
    others = [p.name for p, text in sources.items() if p.name not in own and library.search(text)]
    assert not others


def test_no_report_asks_the_table_of_tasks():
    """A task of one's own is in no table before its file was read: studies ask `engine.facts`, which reads it."""
    asks = re.compile(r"\bTASKS\b|\b_ALIASES\b")
    assert asks.search("if task in TASKS: return"), "the test no longer sees such questions"
    sources = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "bertvision" / "reporting").glob("*.py")}
    sources |= {
        p.name: "\n".join(source(c) for c in cells(p) if c["cell_type"] == "code")
        for p in NBS
        if p.parent.name == "reports"
    }
    assert not [name for name, text in sources.items() if asks.search(text)]
