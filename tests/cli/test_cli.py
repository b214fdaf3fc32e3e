"""The command line: quick to answer, one line for a mistake, an exit code for each end."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
from study_lab import PARAMETERS, START, STUDY, Lab, cola_folder, pretend_done

from bertvision.cli import main, parser
from bertvision.core.io import read_json
from bertvision.runs.records import read_record

A = "learn.toy-sentiment.tiny-random.s0"
COMMAND = [sys.executable, "-c", "import sys; from bertvision.cli import main; sys.exit(main())"]


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path)
    lab.experiment()
    return lab


def cli(lab, command, *more):
    return main([command, str(lab.root / "studies/small.yaml"), "--out", str(lab.out), *more])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom bertvision.cli import parser\nparser().format_help()\n"
        "heavy = {'torch', 'numpy', 'pandas', 'ruamel.yaml', 'rich', 'papermill', 'bertvision.engine.plan'}\n"
        "heavy &= set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_without_docstrings():
    done = subprocess.run([sys.executable, "-OO", *COMMAND[1:], "--help"], capture_output=True, text=True, check=True)
    assert "verify" in done.stdout


def test_every_command_has_help(capsys):
    for command in ("run", "plan", "status", "report", "tasks", "encoders", "doctor", "readme"):
        with pytest.raises(SystemExit) as end:
            parser().parse_args([command, "--help"])
        assert end.value.code == 0 and command in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["runn", "demo"], ["run"], ["run", "demo", "--jobs", "0"], ["run", "demo", "--jobs", "two"]]
)
def test_wrong_usage_ends_with_two(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == 2 and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, words",
    [
        (["run", "dem"], "unknown study 'dem' (did you mean 'demo'?)"),
        (["run", "absent.yaml"], "there is no such study file"),
        (["plan", "demo", "--tasks", "colla"], "unknown task 'colla'"),
        (["plan", "demo", "--encoders", "minilm"], "unknown encoder 'minilm'"),
        (["plan", "demo", "--seeds", "one"], "--seeds one: expected whole numbers"),
        (["plan", "demo", "--set", "epochz=1"], "did you mean 'epochs'?"),
        (["plan", "demo", "--set", "lr=fast"], "lr = 'fast': expected float"),
        (["plan", "glue", "--data", "/absent"], "/absent"),
    ],
)
def test_a_mistake_is_one_line(argv, words, capsys):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("bertvision: error: ") and err.count("\n") == 1 and words in err


def test_dry_run_lists_everything_and_writes_nothing(lab, capsys):
    assert cli(lab, "run", "--dry-run", "--set", "lr=2e-4") == 0
    out = capsys.readouterr().out
    assert A in out and "lr=0.0002" in out and "2 runs, 0 done, 2 to be executed" in out
    assert not lab.out.exists()


def test_the_published_grid_is_listed_where_nothing_can_be_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    assert main(["run", "glue", "--dry-run", "--out", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    assert out.count("finetune.") == 8 * 2 * 5 and "lr=1.1798e-05" in out and "from the hub" in out
    assert main(["plan", "glue", "--out", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    for name in (
        "cola",
        "sst-2",
        "mrpc",
        "sts-b",
        "qqp",
        "mnli",
        "qnli",
        "rte",
        "bert-base-uncased",
        "bert-large-uncased",
        "estimate",
    ):
        assert name in out
    assert not (tmp_path / "o").exists()


def test_run_ends_with_the_table_and_status_and_report_know_it(lab, capsys):
    page = "# A study\n\n| the table |\n\n## More\n\n## Details\n"
    lab.notebook("reports/table", 'study_dir = ""', f"from IPython.display import Markdown\nMarkdown({page!r})")
    lab.study(STUDY + "    report: table")
    assert cli(lab, "run", "--seeds", "0") == 0
    out = capsys.readouterr().out
    assert "| the table |" in out and "Details" not in out and "report: " in out
    assert "1 runs executed in" in out and "runner overhead: " in out
    assert cli(lab, "status") == 0
    out = capsys.readouterr().out
    assert "1 new, 1 done" in out and "accuracy 0.500" in out
    (lab.out / "small/report/table.md").unlink()
    assert cli(lab, "report") == 0 and "| the table |" in capsys.readouterr().out
    assert cli(lab, "run", "--seeds", "0") == 0 and "1 were done already" in capsys.readouterr().out


CPU = {"device": "cpu", "name": "", "count": 0, "cores": 2}
GPU = {"device": "cuda", "name": "NVIDIA L40S", "count": 1, "cores": 16}


@pytest.mark.parametrize(
    "here, device, basis",
    [
        (CPU, {"device": "cpu", "name": "another model", "cores": 2}, "measured"),
        (CPU, {"device": "cpu", "name": "", "cores": 64}, "estimate"),
        (CPU, {"device": "cuda", "name": "NVIDIA L40S", "cores": 2}, "estimate"),
        (GPU, {"device": "cuda", "name": "NVIDIA L40S", "cores": 4}, "measured"),
        (GPU, {"device": "cuda", "name": "NVIDIA L4", "cores": 16}, "estimate"),
    ],
)
def test_a_forecast_from_finished_runs_of_a_like_machine_says_so(lab, capsys, monkeypatch, here, device, basis):
    monkeypatch.setattr("bertvision.engine.forecast.this_machine", lambda: here)
    for job in lab.plan(tasks=["rte"], seeds=[0]).jobs:
        pretend_done(job, device=device, seconds={"total": 600.0}, peak_memory_bytes=2e9, bytes_written=3e6)
    assert cli(lab, "plan", "--tasks", "rte") == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("learn"))
    assert row[-1] == basis and (row[5] == "20.0") == (basis == "measured")


def test_a_forecast_counts_what_trains_and_the_checkpoints_of_the_run_at_work(lab):
    import inspect

    from bertvision.data.splits import split
    from bertvision.engine.forecast import _CARVED_AT_MOST, disk_needed, forecast

    assert inspect.signature(split).parameters["at_most"].default == _CARVED_AT_MOST
    lab.experiment(
        parameters=PARAMETERS
        + '\nprotocol = "carved"\nvalidation_fraction = 0.1\ntrain_examples = 0\ncheckpoint_seconds = 60.0'
    )
    grid = {"tasks": ["rte", "mnli"], "encoders": ["bert-base-uncased"], "seeds": [0]}
    assert [f.examples for f in forecast(lab.plan(**grid)).values()] == [2490 - 249, 392702 - 2000]
    assert [f.examples for f in forecast(lab.plan("train_examples=1000", **grid)).values()] == [900, 900]
    assert [f.examples for f in forecast(lab.plan("protocol=original", **grid)).values()] == [2490, 392702]
    both = list(forecast(lab.plan(**grid)).values())
    one, two = disk_needed(both, at_once=1), disk_needed(both, at_once=2)
    assert 28 * 109e6 < one < 28 * 110e6 and 1.9 < two / one < 2


def test_failing_runs_end_with_one(lab, capsys):
    lab.experiment(START, "1 / 0")
    assert cli(lab, "run", "--seeds", "0") == 1
    out, err = capsys.readouterr()
    assert "FAILED" in out and "ZeroDivisionError" in out and "failures.md" in err
    assert cli(lab, "status", "--seeds", "0") == 0 and "1 failed" in capsys.readouterr().out


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(lab):
    lab.experiment(START, "import time; (run.folder / 'here').write_text(''); time.sleep(60)")
    command = [*COMMAND, "run", str(lab.root / "studies/small.yaml"), "--out", str(lab.out), "--seeds", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not (lab.out / "small/runs" / A / "here").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "the same command goes on" in process.stderr.read() and "Traceback" not in process.stderr.read()


def test_an_encoder_is_checked(capsys, tmp_path):
    assert main(["encoders", "check", "tiny-random"]) == 0
    out = capsys.readouterr().out
    for words in ("place of CLS", "first", "2 segments", "512 tokens", "batches may be padded"):
        assert words in out
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    assert main(["encoders", "check", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is a t5 model, which writes a text with a decoder" in error and error.count("\n") == 1
    (tmp_path / "config.json").unlink()
    assert main(["encoders", "check", str(tmp_path)]) == 2 and "without config.json" in capsys.readouterr().err


def test_tables_of_tasks_and_encoders(capsys):
    assert main(["tasks"]) == 0 and main(["encoders"]) == 0
    out = capsys.readouterr().out
    for name in ("cola", "mnli", "toy-entailment", "matthews", "minilm-l6", "bert-large-uncased"):
        assert name in out


def test_doctor_says_what_cannot_be_loaded_and_why(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert (
        "precision" in out
        and "torch" in out
        and "yes, generated" in out
        and "no: HF_HUB_OFFLINE is set; give --data DIR" in out
    )
    (tmp_path / "CoLA").mkdir()
    assert main(["doctor", "--data", str(tmp_path)]) == 0
    assert "lacks train.tsv" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
def test_a_finetuning_whose_kernel_is_killed_ends_with_the_same_metrics(tmp_path):
    """A real fine-tuning is killed with SIGKILL in the middle of an epoch; the next `bertvision run` resumes it."""
    study = tmp_path / "studies" / "kill.yaml"
    study.parent.mkdir()
    study.write_text(
        "tasks: [toy-sentiment]\nencoders: [tiny-random]\nseeds: [0]\nsteps:\n  finetune: {parameters: "
        "{epochs: 3, train_examples: 800, max_length: 64, lr: 1e-3, checkpoint_seconds: 0.3, precision: fp32}}\n"
    )

    def run(out):
        return subprocess.Popen(
            [*COMMAND, "run", str(study), "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    calm = run(tmp_path / "calm")
    assert calm.wait(300) == 0, calm.stdout.read()
    name = "finetune.toy-sentiment.tiny-random.s0"
    folder = tmp_path / "rough/kill/runs" / name
    process, end = run(tmp_path / "rough"), time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        told = read_json(folder / "progress.json") if (folder / "progress.json").exists() else {"done": 0}
        if told["done"] > 20:
            break
        time.sleep(0.02)
    kernels = [p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel" in " ".join(p.cmdline())]
    assert kernels
    for kernel in kernels:
        kernel.kill()
    assert process.wait(60) == 1
    assert "killed" in (tmp_path / "rough/kill/failures.md").read_text()
    again = run(tmp_path / "rough")
    assert again.wait(300) == 0, again.stdout.read()
    resumed, undisturbed = read_record(folder), read_record(tmp_path / "calm/kill/runs" / name)
    assert resumed["resumed_from"] > 0 and resumed["attempt"] == 2
    assert resumed["metrics"] == undisturbed["metrics"]


def test_the_plan_and_the_failures_say_how_to_run_again(lab, monkeypatch):
    monkeypatch.delenv("BERTVISION_DATA", raising=False)
    monkeypatch.chdir(lab.root)
    lab.experiment(START, "1 / 0", parameters=PARAMETERS + '\ndata = ""')
    study = str(lab.root / "studies/small.yaml")
    assert (
        main(
            [
                "run",
                study,
                "--tasks",
                "cola",
                "--seeds",
                "0,1",
                "--set",
                "lr=2e-4",
                "--data",
                str(cola_folder(lab.root / "data")),
            ]
        )
        == 1
    )
    command = "bertvision run small.yaml --tasks cola --seeds 0 1 --set lr=2e-4 --data DIR"
    plan = lab.out / "small/plan.json"
    assert read_json(plan)["command"] == command
    failures = (lab.out / "small/failures.md").read_text()
    assert f"again: `{command}`" in failures and str(lab.root) not in plan.read_text()


def test_doctor_knows_the_files_of_questions(capsys, tmp_path):
    (tmp_path / "SQuAD").mkdir()
    (tmp_path / "SQuAD" / "dev-v2.0.json").write_text("{}")
    assert main(["doctor", "--data", str(tmp_path)]) == 0
    told = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("squad")}
    assert "lacks train-v2.0.json" in told["squad2"] and "yes" in told["squad2-articles"]
