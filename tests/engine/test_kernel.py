"""The process that executes a notebook: its interpreter and settings, its outputs, its time limit; on both engines."""

import importlib.util
import json
import os
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import study_lab
from study_lab import FINISH, PARAMETERS, START, Lab, pretend_done

from bertvision.cli import main
from bertvision.core.errors import DataError, StudyError
from bertvision.core.io import read_json, write_json
from bertvision.engine import child
from bertvision.engine import local as runner
from bertvision.engine.child import explain
from bertvision.engine.forecast import this_machine
from bertvision.runs.records import read_record

A = "learn.toy-sentiment.tiny-random.s0"
NO_SNAKEMAKE = importlib.util.find_spec("snakemake") is None
NEEDS_SNAKEMAKE = pytest.mark.skipif(
    NO_SNAKEMAKE, reason='snakemake is not installed: pip install "bertvision[cluster]"'
)
ENGINES = ["local", pytest.param("snakemake", marks=[NEEDS_SNAKEMAKE, pytest.mark.long])]
WARM = pytest.mark.skipif(
    sys.platform != "linux" or this_machine()["device"] != "cpu", reason="forking needs Linux, and no GPU"
)


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    return lab


def cli(lab, *more):
    """`bertvision run` on the lab's study."""
    return main(["run", str(lab.root / "studies/small.yaml"), "--out", str(lab.out), *more])


def told(lab, name="told") -> list:
    """What the runs have written into their records, in the order of their folders."""
    return [read_record(p.parent)[name] for p in sorted(lab.out.glob("small/runs/*/record.json"))]


def finish(expression: str) -> str:
    """The last cell of an experiment that puts a value into its record."""
    return f'run.finish({{"validation": {{"accuracy": 0.5}}}}, extra={{"told": {expression}}})'


# Which interpreter, and whose settings.

OTHER = '#!/bin/sh\nSOMEBODY_ELSES=1 exec "{python}" -m ipykernel_launcher "$@"\n'


def install_kernel(place: Path):
    """A kernel that calls itself python3, as a cluster's module would bring one."""
    (place / "kernels/python3").mkdir(parents=True)
    script = place / "python"
    script.write_text(OTHER.format(python=sys.executable))
    script.chmod(0o755)
    write_json(
        place / "kernels/python3/kernel.json",
        {"argv": [str(script), "-f", "{connection_file}"], "display_name": "python3", "language": "python"},
    )


def name_kernel(path: Path, spec):
    """Let a notebook name another kernel, or none."""
    notebook = json.loads(path.read_text())
    notebook["metadata"] = {"kernelspec": spec} if spec else {}
    path.write_text(json.dumps(notebook))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_takes_this_interpreter_whatever_kernel_its_notebook_names(lab, tmp_path, monkeypatch, engine):
    install_kernel(tmp_path / "module")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "module"))
    cells = START, finish("[sys.executable, 'SOMEBODY_ELSES' in os.environ]")
    specs = {
        "found": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "missing": {"name": "no-such-kernel", "display_name": "x", "language": "R"},
        "none": None,
    }
    for name, spec in specs.items():
        name_kernel(lab.experiment("import os, sys", *cells, name=name), spec)
    steps = ", ".join(f"{name}: {{}}" for name in specs)
    lab.study(f"{{tasks: [toy-sentiment], encoders: [tiny-random], seeds: [0], steps: {{{steps}}}}}")
    assert cli(lab, "--engine", engine, "--jobs", "2") == 0
    assert told(lab) == [[sys.executable, False]] * 3


LEAK = "import builtins; builtins.leaks = [*getattr(builtins, 'leaks', []), {name!r}]"


def leave_settings(home: Path, ipython: Path, jupyter: Path):
    """All the places from which IPython and Jupyter take a user's settings, each with a trace."""
    profile = ipython / "profile_default"
    (profile / "startup").mkdir(parents=True)
    jupyter.mkdir(parents=True)
    leak = lambda name: LEAK.format(name=name)
    lines = lambda name: f"c.InteractiveShellApp.exec_lines = [{leak(name)!r}]\n"
    (profile / "startup/00-first.py").write_text(leak("startup"))
    for name in ("ipython_config", "ipython_kernel_config"):
        (profile / f"{name}.py").write_text(lines(f"profile {name}"))
        (jupyter / f"{name}.py").write_text(lines(f"jupyter {name}"))
    write_json(profile / "ipython_kernel_config.json", {"InteractiveShellApp": {"exec_lines": [leak("json")]}})
    (jupyter / "jupyter_config.py").write_text(leak("jupyter_config"))
    (home / "startup.py").write_text(leak("PYTHONSTARTUP"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("where", ["in the environment", "in the home folder"])
def test_the_users_settings_do_not_reach_a_run(lab, tmp_path, monkeypatch, engine, where):
    home, named = tmp_path / "home", where == "in the environment"
    home.mkdir()
    ipython, jupyter = (home / "i", home / "j") if named else (home / ".ipython", home / ".jupyter")
    leave_settings(home, ipython, jupyter)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "startup.py"))
    for name, place in (("IPYTHONDIR", ipython), ("JUPYTER_CONFIG_DIR", jupyter), ("JUPYTER_CONFIG_PATH", jupyter)):
        if named:
            monkeypatch.setenv(name, str(place))
        else:
            monkeypatch.delenv(name, raising=False)
    lab.experiment("import builtins", START, finish('getattr(builtins, "leaks", [])'))
    assert cli(lab, "--engine", engine, "--seeds", "0") == 0
    assert told(lab) == [[]]


STOCK = """import builtins, os, signal, sys
import bertvision.models.encoders, matplotlib, numpy, random, torch
stock = dict(
    environ={k: v for k, v in os.environ.items() if not k.startswith(("IPYTHONDIR", "JUPYTER_CONFIG_DIR"))},
    python=sys.executable, package=bertvision.__file__, path=sys.path[:],
    argv=sys.argv[:1] + sys.argv[3:-1], flags=str(sys.flags), folder=os.path.basename(os.getcwd()),
    session=os.getsid(0) == os.getpid(), signals=[str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
    leaks=getattr(builtins, "leaks", []), backend=matplotlib.get_backend(),
    numbers=[str(torch.get_default_dtype()), torch.get_num_threads()])
stock["backend"], warm = stock["backend"].lower(), os.getpgid(0) != 0 and "nursery" in " ".join(sys.orig_argv)"""


@WARM
def test_warm_and_cold_kernels_have_the_same_environment(lab, tmp_path, monkeypatch):
    """Also where the user stands in a folder with another bertvision and a module of a library's name."""
    decoys = tmp_path / "here"
    for name in ("bertvision/__init__.py", "seaborn.py"):
        (decoys / name).parent.mkdir(parents=True, exist_ok=True)
        (decoys / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\nraise ImportError")
    monkeypatch.chdir(decoys)
    leave_settings(tmp_path, tmp_path / "i", tmp_path / "j")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "i"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))
    lab.experiment(
        STOCK, START, finish("[warm, stock, [torch.initial_seed(), float(numpy.random.rand()), random.random()]]")
    )
    assert lab.run(jobs=2).ok
    warm = told(lab)
    lab.out = lab.root / "cold"
    monkeypatch.setattr(runner, "open_nursery", lambda *_: None)
    assert lab.run(jobs=2).ok
    cold = told(lab)
    assert [w for w, *_ in warm] == [True, True] and [c for c, *_ in cold] == [False, False]
    assert all(len(set(drawn)) == 4 for drawn in zip(*(numbers for *_, numbers in warm + cold))), (
        "each kernel draws its own numbers"
    )
    for (_, one, _), (_, other, _) in zip(warm, cold):
        for name in one:
            assert one[name] == other[name], name
    assert warm[0][1]["leaks"] == [] and not (tmp_path / "imported").exists()


# Channels.


@pytest.fixture
def short_tmp(monkeypatch):
    """A temporary folder of a short name, where sockets may be; nothing of a kernel's may be left in it."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)
        assert not list(Path(folder).glob("bv-*"))


@pytest.fixture
def taken():
    """A port that another process has."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def execute(folder: Path, monkeypatch, *cells) -> tuple:
    """(failure or None, executed cells) of a notebook that is executed by this process."""
    path = Lab(folder).experiment(*cells, parameters="seed = 0")
    (folder / "run").mkdir()
    monkeypatch.chdir(folder / "run")
    failure = child._execute(path, folder / "run/notebook.ipynb", {"seed": 1})
    return failure, read_json(folder / "run/notebook.ipynb")["cells"][2:]


def test_a_kernel_needs_no_port(tmp_path, short_tmp, taken, monkeypatch):
    monkeypatch.setattr("jupyter_client.connect.LocalPortCache.find_available_port", lambda *_: taken)
    failure, cells = execute(tmp_path, monkeypatch, "import os\nprint(os.listdir(os.environ['TMPDIR']))")
    assert failure is None and "bv-" in cells[0]["outputs"][0]["text"][0]


def test_a_long_temporary_folder_is_passed_by(tmp_path, monkeypatch):
    from bertvision.engine.kernel import kernel_room

    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with kernel_room() as room:
        assert (
            room.transport == "ipc" and not room.folder.is_relative_to(long) and room.folder.stat().st_mode & 0o77 == 0
        )
    assert not room.folder.exists() and not list(long.iterdir())


def test_where_sockets_cannot_be_files_a_taken_port_costs_another_start(tmp_path, taken, monkeypatch):
    """The first kernel finds its port taken and ends before the first cell."""
    from jupyter_client.connect import LocalPortCache

    find, asked = LocalPortCache.find_available_port, []
    monkeypatch.setattr("bertvision.engine.kernel._can_hold_sockets", lambda _: False)
    monkeypatch.setattr(
        LocalPortCache,
        "find_available_port",
        lambda self, ip: asked.append(ip) or (taken if len(asked) == 1 else find(self, ip)),
    )
    failure, cells = execute(tmp_path, monkeypatch, "open('ran', 'a').write('x')")
    assert failure is None and len(asked) == 10 and (tmp_path / "run/ran").read_text() == "x"


def test_a_port_that_stays_taken_is_the_reason_and_a_cell_that_meets_one_is_not_repeated(tmp_path, taken, monkeypatch):
    monkeypatch.setattr("bertvision.engine.kernel._can_hold_sockets", lambda _: False)
    for name, end, words in (
        ("a", f"socket.socket().bind(('127.0.0.1', {taken}))", "port was taken"),
        ("b", "os._exit(98)", "exit code 98"),
    ):
        failure, _ = execute(tmp_path / name, monkeypatch, f"import os, socket\nopen('ran', 'a').write('x')\n{end}")
        assert words in failure["reason"] and failure["cell"] == 2 and (tmp_path / name / "run/ran").read_text() == "x"
    monkeypatch.setattr("jupyter_client.connect.LocalPortCache.find_available_port", lambda *_: taken)
    failure, _ = execute(tmp_path / "again", monkeypatch, "open('ran', 'a').write('x')")
    assert "port was taken" in failure["reason"] and not (tmp_path / "again/run/ran").exists()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os.kill(os.getppid(), 15)", "os.kill(os.getppid(), 9)"])
def test_a_killed_kernel_or_child_leaves_no_folder(lab, short_tmp, end):
    lab.experiment("import os", START, end)
    assert lab.run(seeds=[0]).failed


def test_the_kernels_of_several_processes_leave_no_folder(lab, short_tmp):
    lab.experiment(
        START,
        "import os, time\nif os.environ['RANK'] == '0': os.kill(os.getpid(), 9)\ntime.sleep(100)",
        "run.main_only()",
    )
    assert runner.run_study(replace(lab.plan(seeds=[0]), processes=2), live=False).failed


# Output.


@pytest.fixture
def slow_client(monkeypatch):
    """papermill takes a tenth of a second for each message."""
    import time

    from papermill.clientwrap import PapermillNotebookClient as Client

    take = Client.process_message
    monkeypatch.setattr(Client, "process_message", lambda self, *a, **k: time.sleep(0.1) or take(self, *a, **k))


def test_a_cell_that_has_ended_is_not_failed_for_output_that_is_still_under_way(tmp_path, slow_client, monkeypatch):
    failure, cells = execute(tmp_path, monkeypatch, "for i in range(60): display(i)", "print('last')")
    assert failure is None and [len(c["outputs"]) for c in cells] == [60, 1]


def test_no_output_is_dropped_for_a_client_that_cannot_keep_up(tmp_path, monkeypatch):
    """Beyond its limit ZeroMQ drops messages, the end of the cell among them: of 15,000 outputs, 2,980 arrived."""
    failure, cells = execute(
        tmp_path,
        monkeypatch,
        "from ipykernel.kernelapp import IPKernelApp\nprint(IPKernelApp.instance().iopub_thread.socket.sndhwm)",
    )
    assert failure is None and cells[0]["outputs"][0]["text"] == ["0\n"]


def test_output_that_never_comes_is_said_to_be_missing(tmp_path, slow_client, monkeypatch, caplog):
    monkeypatch.setattr(child, "_OUTPUT_PATIENCE", 1)
    failure, _ = execute(tmp_path, monkeypatch, "for i in range(30): display(i)", "print('last')")
    assert failure is None and "did not arrive within 1 s; notebook.ipynb lacks them" in caplog.text


# Time, memory, what lies in the folder already.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_over_its_time_is_stopped_and_can_go_on(lab, engine):
    """The first attempt leaves a checkpoint, the second waits for what never comes, wherever its time ends."""
    lab.experiment(
        START,
        "point, go = run.folder / 'checkpoint', run.folder / 'go'\nresumed = point.exists()\npoint.touch()\n"
        "assert resumed, 'first'",
        "import time\nwhile not go.exists(): time.sleep(0.1)",
        finish("resumed"),
    )
    folder = lab.out / "small/runs" / A
    assert (
        cli(lab, "--engine", engine, "--seeds", "0") == 1
        and read_record(folder)["failure"]["exception"] == "AssertionError: first"
    )
    assert cli(lab, "--engine", engine, "--seeds", "0", "--minutes", "0.1") == 1
    failure = read_record(folder)["failure"]
    assert (
        failure["reason"] == "over its time limit of 0.1 minutes"
        and failure["exit_code"] is None
        and (folder / "checkpoint").exists()
    )
    if engine == "snakemake":
        assert len((lab.out / "small/cluster/attempts" / A).read_text().splitlines()) == 1, "it is not tried again"
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    (folder / "go").touch()
    assert cli(lab, "--engine", engine, "--seeds", "0", "--minutes", "0") == 0
    assert told(lab) == [True] and read_record(folder)["attempt"] >= 2


@pytest.mark.parametrize("value", ["-1", "nan", "soon", ""])
def test_a_time_limit_is_a_number_of_minutes(lab, capsys, value):
    with pytest.raises(SystemExit):
        cli(lab, f"--minutes={value}")
    assert "expected minutes such as 90, or 0 for no limit" in capsys.readouterr().err and not lab.out.exists()


def test_more_runs_at_once_than_memory_holds_are_warned_of(lab, monkeypatch, capsys):
    lab.experiment(parameters=PARAMETERS + "\ntrain_examples = 100")
    lab.study("{tasks: [toy-sentiment], encoders: [bert-base-uncased], seeds: [0, 1, 2], steps: {learn: {}}}")
    monkeypatch.setattr(runner, "_memory_here", lambda: 8e9, raising=False)
    monkeypatch.setattr(runner, "_start", lambda *_: (_ for _ in ()).throw(StudyError("enough seen")))
    for jobs, words in (("3", "memory for 3 runs at once, and this machine has 8.0 GB: lower --jobs to 2"), ("2", "")):
        assert cli(lab, "--jobs", jobs) == 2
        said = capsys.readouterr().out
        assert words in said and ("GB of memory" in said) == bool(words)


def test_runs_left_from_an_earlier_call_are_named(lab, capsys):
    for job in lab.plan(seeds=[0, 1, 3, 4]).jobs:
        pretend_done(job)
    pretend_done(lab.plan(seeds=[5]).jobs[0], status="failed")
    note = "note: 2 finished runs are left from an earlier call and count in the report (seed 3, 4)"
    assert cli(lab) == 0 and note in capsys.readouterr().out
    assert (
        main(["status", str(lab.root / "studies/small.yaml"), "--out", str(lab.out)]) == 0
        and note in capsys.readouterr().out
    )
    assert cli(lab, "--seeds", "0", "1", "3", "4") == 0 and "left from an earlier call" not in capsys.readouterr().out
    assert (
        cli(lab, "--seeds", "1", "3", "4") == 0
        and "1 finished run is left from an earlier call and counts" in capsys.readouterr().out
    )


# What is wrong is told by its name.


@pytest.mark.parametrize(
    "text",
    [
        "OSError: [Errno 28] No space left on device",
        "DataError: states.h5 cannot be written: Can't synchronously write data "
        "(file write failed: errno = 28, error message = 'x', offset = 614400)",
        "SafetensorError: Error while serializing: I/O error: Kein Speicherplatz (os error 28)",
        "OSError: [Errno 122] Disk quota exceeded",
        "RuntimeError: EDQUOT",
        "ENOSPC: write",
        "sqlite3.OperationalError: database or disk is full",
    ],
)
def test_a_full_disk_is_the_reason(text):
    assert explain(f"Traceback\n{text}\nmore").startswith("disk full")


def test_numbers_that_only_look_like_a_full_disk_are_not():
    for text in ("ValueError: errno 280", "errno = 1228", "KeyError: 28", "IndexError: offset 28"):
        assert explain(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "OSError: [Errno 98] Address already in use",
        "zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:1')",
        "DistNetworkError: The server socket has failed to listen. EADDRINUSE",
    ],
)
def test_a_taken_port_is_the_reason(text):
    assert "port was taken" in explain(text)


def test_a_really_full_disk_is_the_reason(lab):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    lab.experiment(START, "with open('/dev/full', 'w') as f: f.write('x')")
    assert lab.run(seeds=[0]).failed[A]["reason"].startswith("disk full")


CONFLICT = '<<<<<<< HEAD\n   "source": "lr = 1"\n=======\n   "source": "lr = 2"\n>>>>>>> other\n'


def test_a_notebook_with_merge_conflicts_says_where(lab):
    path = lab.root / "experiments/learn.ipynb"
    lines = json.dumps(json.loads(path.read_text()), indent=1).splitlines(keepends=True)
    path.write_text("".join([*lines[:5], CONFLICT, *lines[5:]]))
    with pytest.raises(DataError, match=r"learn\.ipynb has unresolved merge conflicts, the first at line 6"):
        lab.run()
    assert not lab.out.exists()


def test_merge_conflicts_in_cells_of_their_own_say_where(lab):
    lab.experiment("`<<<<<<< HEAD`", START, "`=======`", FINISH, "`>>>>>>> other`")
    with pytest.raises(DataError, match=r"learn\.ipynb has unresolved merge conflicts, the first at cell 2"):
        lab.run()


# Cells are read as IPython executes them.


def closure(lab, *cells):
    lab.experiment(*cells, START, FINISH)
    return lab.plan(seeds=[0]).jobs[0].parts["code"]


@pytest.mark.parametrize(
    "cell",
    [
        "files = !ls\nfrom bertvision import Recipe",
        "if True:\n    %time 1\nfrom bertvision import Recipe",
        "%%time\nfrom bertvision import Recipe",
        "%%capture out\n%%time\nfrom bertvision import Recipe",
        "%time from bertvision import Recipe",
        "x = %timeit -n 1 -o from bertvision import Recipe",
        "from bertvision import Recipe\nRecipe?",
        "  from bertvision import Recipe\n  a = 1",
        ">>> from bertvision import Recipe",
        "!echo a \\\n  b\nfrom bertvision import Recipe",
        "import importlib\nimportlib.import_module('bertvision.runs.recipes')",
        "__import__('bertvision.runs.recipes')",
        "from importlib import import_module\nimport_module('.recipes', 'bertvision.runs')",
        "from importlib import import_module\nimport_module('.recipes', package='bertvision.runs')",
        "!python -c 'import bertvision.runs.recipes'",
    ],
)
def test_imports_behind_magics_and_by_name_are_seen(lab, cell):
    plain = closure(lab, "from bertvision.runs.recipes import Recipe")
    assert closure(lab, cell) == plain != closure(lab, "a = 1")


def test_a_shell_command_counts_to_its_end(lab):
    def notebook(command):
        lab.experiment(command, START, FINISH)
        return lab.plan(seeds=[0]).jobs[0].parts["notebook"]

    assert notebook("!cut -d# -f1 a.txt") != notebook("!cut -d# -f2 a.txt")
    assert notebook("a = !ls  \nb = 1  # one") == notebook("a = !ls  \nb = 1  # two")


@pytest.mark.parametrize(
    "cell",
    ["pip install something", "ls -l", "%pip install something", "await something()", "?print", "%%bash\nls -l | wc"],
)
def test_what_ipython_executes_is_a_cell(lab, cell):
    lab.experiment(START, cell, FINISH)
    assert len(lab.plan().jobs) == 2


@pytest.mark.parametrize(
    "cell", ["x = = 1", "def f(:\n  pass", "%time 1\nfor", "from bertvision import", "tip install something"]
)
def test_a_cell_that_is_nothing_is_named(lab, cell):
    lab.experiment(START, cell, FINISH)
    with pytest.raises(StudyError, match=r"learn\.ipynb, cell 3: neither Python nor IPython: "):
        lab.run()
    assert not lab.out.exists()


def test_plain_cells_are_read_without_ipython(lab):
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from bertvision.core.io import resources\nfrom bertvision.engine.fingerprint import _template\n"
        "for path in resources().glob('experiments/*.ipynb'): _template(path)\nassert 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, os.path.dirname(study_lab.__file__)], check=True)
