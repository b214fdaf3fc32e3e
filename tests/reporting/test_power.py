"""Power before the run: the forecast is what simulated studies find, and `plan` and `run` print it."""

import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from study_lab import Lab

from bertvision.cli import main
from bertvision.core.errors import ParameterError
from bertvision.engine.grid import load_study
from bertvision.engine.local import Outcome
from bertvision.engine.plan import plan
from bertvision.metrics.comparisons import compare_contributions
from bertvision.metrics.levels import draw_study, simulate
from bertvision.metrics.power import (
    Scatter,
    detectable,
    power,
    scatter_variances,
    seeds_needed,
    seeds_text,
    typical_scatter,
)
from bertvision.reporting.glue import difference_table
from bertvision.reporting.methods import against
from bertvision.reporting.power import PRIOR, power_forecast, power_text
from bertvision.reporting.results import glue_table, read_study

ROOT = Path(__file__).parents[2]
SCATTER = Scatter(seeds=2.5, examples=20.0, rest=45.0)


def effect_of(points):
    """What `draw_study` must be told for methods that are better than 75 % by so many points."""
    return 100 * 0.3178 * (stats.norm.ppf(0.75 + points / 100) - 0.6745)


@lru_cache(maxsize=None)
def scatter_of_levels(examples, kind, points):
    """Scatter of simulated methods that differ so much, each from the baseline of its own study."""
    draw = lambda seed: draw_study("accuracy", examples, kind, 2.0, effect_of(points), np.random.default_rng(seed))
    drawn = (draw(seed) for seed in range(100))
    return typical_scatter([scatter_variances(study[1].astype(float) - study[0]) for study in drawn])


def simulated_power(examples, kind, seeds, comparisons):
    """Share of comparisons found by the simulation at the difference that the forecast calls detectable."""
    first = detectable(scatter_of_levels(examples, kind, 0), seeds, examples, comparisons)
    difference = detectable(scatter_of_levels(examples, kind, first), seeds, examples, comparisons)
    table = simulate("accuracy", examples, kind, 2.0, effect=effect_of(difference), studies=300)
    row = table[(table["rule"] == "both") & (table["seeds"] == seeds) & (table["comparisons"] == comparisons)]
    return row["claims"].item()


@pytest.mark.parametrize(
    "examples, kind, seeds", [(277, "alike", 3), (277, "alike", 10), (277, "items", 5), (1043, "items", 5)]
)
def test_eight_of_ten_simulated_studies_find_the_detectable_difference(examples, kind, seeds):
    found = simulated_power(examples, kind, seeds, 1)  # of 300 studies: a standard error of .023
    assert found == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("examples, seeds", [(277, 10), (1043, 5)])
def test_holm_over_twelve_finds_at_least_what_its_first_step_promises(examples, seeds):
    assert simulated_power(examples, "alike", seeds, 12) >= 0.8 - 0.03


@pytest.mark.parametrize("seeds, examples", [(2, 300), (3, 300), (6, 1000)])
def test_the_forecast_is_what_the_rule_says_of_drawn_differences(seeds, examples):
    rng, difference = np.random.default_rng(seeds), detectable(SCATTER, seeds, examples)
    normal = rng.standard_normal

    def claims():
        fixed = difference + SCATTER.seeds * normal((seeds, 1)) + SCATTER.examples * normal(examples)
        d = fixed + SCATTER.rest * normal((seeds, examples))
        return compare_contributions(d / 100).p < 0.05

    assert np.mean([claims() for _ in range(800)]) == pytest.approx(0.8, abs=0.045)


def test_more_seeds_or_examples_find_less_and_more_comparisons_need_more():
    for comparisons in (1, 112):
        by_seeds = [detectable(SCATTER, n, 500, comparisons) for n in range(2, 51)]
        assert by_seeds == sorted(by_seeds, reverse=True)
    assert detectable(SCATTER, 5, 1000) < detectable(SCATTER, 5, 500) < detectable(SCATTER, 5, 500, 12)
    needed = [seeds_needed(SCATTER, points, 10_000) or 99 for points in (10, 5, 2, 1)]
    assert needed == sorted(needed) and needed[0] < needed[-1]


def test_the_seeds_needed_are_the_fewest_that_find_it():
    n = seeds_needed(SCATTER, 5, 1000)
    assert power(SCATTER, 5, n, 1000) >= 0.8 > power(SCATTER, 5, n - 1, 1000)
    assert seeds_text(SCATTER, 0.5, 1000) == "never" and seeds_text(SCATTER, 0.8, 10**6) == "> 50"


def test_without_scatter_every_difference_above_the_rounding_is_found():
    assert detectable(Scatter(0, 0, 0), 3, 1000) < 0.3


@pytest.mark.parametrize(
    "given, words",
    [
        ({"seeds": 1}, "one seed allows no claim"),
        ({"examples": 1}, "examples = 1"),
        ({"comparisons": 0}, "comparisons = 0"),
    ],
)
def test_what_allows_no_claim_is_an_error(given, words):
    with pytest.raises(ParameterError, match=words):
        detectable(SCATTER, **({"seeds": 3, "examples": 100, "comparisons": 1} | given))


def small(out, name="glue-small", **given):
    return plan(load_study(name, **given), out=out, inputs=False)


def test_plan_prints_what_glue_small_could_find(capsys):
    assert main(["plan", "glue-small", "--out", str(ROOT / "outputs")]) == 0
    text = capsys.readouterr().out
    rows, _ = power_forecast(small(ROOT / "outputs"))
    assert [f.task for f in rows] == ["cola", "mrpc", "rte", "sts-b"] and {f.family for f in rows} == {44}
    for f in rows:
        lines = [line for line in text.splitlines() if "pairs of earlier methods" in line]
        line = next(line for line in lines if line.startswith(f.task))
        assert f"{detectable(f.basis.scatter, f.seeds, f.examples):.1f} / " in line and f"{f.examples:,}" in line
    seeds = {f.seeds for f in rows}
    found = f"found with {seeds.pop()} seeds" if len(seeds) == 1 else "found with its seeds"
    assert "8 of 10" in text and found in text and "collapsed" in text


def test_each_task_may_have_its_own_number_of_seeds(some_runs, tmp_path):
    study = (ROOT / "nbs/studies/glue-small.yaml").read_text()
    study = re.sub(r"^ +seeds: .*\n", "", study, flags=re.M)  # of single steps
    each = "seeds: {cola: [0, 1, 2], mrpc: [0, 1, 2, 3, 4], rte: [0], sts-b: [0, 1]}"
    study = re.sub(r"^seeds: .*$", each, study, count=1, flags=re.M)
    (tmp_path / "glue-each.yaml").write_text(study)
    text = power_text(small(some_runs, tmp_path / "glue-each.yaml"))
    assert "found with its seeds" in text and "One seed on rte: no difference can be claimed" in text
    line = next(line for line in text.splitlines() if line.startswith("mrpc"))
    assert line.split()[3] == "5"


def test_the_family_is_that_of_the_report():
    """What the committed reports print under their tables."""
    families = {"squad-small": 10, "long-attention-small": 15, "pretrain-small": 10, "subsets-small": 12}
    for name, family in families.items():
        assert power_forecast(small(ROOT / "outputs", name))[0][0].family == family, name


@pytest.fixture
def some_runs(tmp_path):
    """Runs of RTE from the committed study: two methods, three seeds."""
    for run in (ROOT / "outputs/glue-small/runs").glob("finetune*.rte.minilm-l6.s?"):
        if run.name.split(".")[0] in ("finetune-2", "finetune-3"):
            shutil.copytree(run, tmp_path / "outputs/glue-small/runs" / run.name)
    return tmp_path / "outputs"


def test_other_encoders_then_the_prior(some_runs, tmp_path):
    of = lambda out, **given: power_forecast(small(out, **given))[0][0].basis
    assert of(some_runs, tasks=["rte"]).text == "1 pair of earlier methods"
    assert of(some_runs, tasks=["rte"], encoders=["tiny-random"]).text == "1 pair with other encoders"
    assert of(some_runs, tasks=["mrpc"])[:2] == (PRIOR["accuracy"], "prior")
    text = power_text(small(tmp_path / "empty", tasks=["rte"]))
    assert "prior" in text and "Accuracy 1.8 / 20 / 41.3" in text


def test_damaged_and_collapsed_runs_are_left_out_and_named(some_runs):
    before = power_forecast(small(some_runs, tasks=["rte"]))[0][0].basis
    runs = some_runs / "glue-small/runs"
    for k, damage in enumerate((b"", b"PAR1 no parquet", None)):
        shutil.copytree(runs / "finetune-2.rte.minilm-l6.s0", broken := runs / f"finetune-2.rte.minilm-l6.s{7 + k}")
        record = (broken / "record.json").read_text().replace("finetune-2.rte.minilm-l6.s0", broken.name)
        (broken / "record.json").write_text(record.replace('"seed": 0', f'"seed": {7 + k}'))
        (broken / "predictions.parquet").unlink()
        if damage is not None:
            (broken / "predictions.parquet").write_bytes(damage)
    (runs / "finetune-9.rte.minilm-l6.s0").mkdir()
    (runs / "finetune-9.rte.minilm-l6.s0/record.json").write_text('{"schema": 1')
    rows, notes = power_forecast(small(some_runs, tasks=["rte"]))
    assert rows[0].basis == before
    note = next(n for n in notes if "cannot be read" in n)
    assert "finetune-" in note and "and 3 more" in note and str(runs) not in note


def test_one_seed_says_that_nothing_can_be_claimed(tmp_path):
    text = power_text(small(tmp_path, tasks=["rte"], seeds=[3]))
    assert text.startswith("One seed: no difference can be claimed") and "none" in text


@pytest.mark.parametrize("name", ["demo", "benchmark", "search-heads", "xnli-small", "probes-toy"])
def test_a_study_that_compares_no_methods_says_nothing(name, tmp_path):
    assert power_text(small(tmp_path, name)) == ""


OWN = """
name: reviews
kind: classification
text: body
label: stars
labels: {0: negative, 1: positive}
metrics: [accuracy]
files: {train: train.csv, validation: dev.csv}
"""


def test_run_and_plan_say_it_once_for_a_task_of_ones_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bertvision.engine.local.run_study", lambda plan, jobs: Outcome(plan.folder))  # runs nothing
    lines = ["stars,body", *(f"{i % 2},text {i}" for i in range(40))]
    for name in ("train.csv", "dev.csv"):
        (tmp_path / name).write_text("\n".join(lines))
    (tmp_path / "reviews.yaml").write_text(OWN)
    lab = Lab(tmp_path / "lab")
    lab.experiment()
    lab.notebook("reports/glue", 'study_dir = ""  # folder', "pass")
    lab.study(f"""
        tasks: [{tmp_path / "reviews.yaml"}]
        encoders: [tiny-random]
        seeds: [0, 1, 2]
        steps: {{one: {{experiment: learn}}, two: {{experiment: learn, parameters: {{epochs: 2}}}}}}
        report: glue
    """)
    for command in ("plan", "run"):
        assert main([command, str(lab.root / "studies/small.yaml"), "--out", str(lab.out)]) == 0
        text = capsys.readouterr().out
        assert text.count("What the seeds can establish") == 1
        line = next(line for line in text.splitlines() if line.startswith("reviews") and "prior" in line)
        assert "Accuracy" in line and " 40 " in line


def test_the_forecast_needs_no_torch():
    code = "import sys, bertvision.reporting.power; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_says_how_many_seeds_an_undecided_comparison_takes():
    study = read_study(ROOT / "outputs" / "glue-small")
    compared = against(study, glue_table(study))
    (first, caption), (others, _) = difference_table(compared), difference_table(compared, first=False)
    assert "Seeds it takes" not in others and "Seeds it takes: with so many seeds 8 of 10" in caption
    rows = compared[compared["first"]].reset_index(drop=True)
    assert len(first) == len(rows) == 44
    for text, verdict in zip(first["Seeds it takes"], rows["verdict"]):
        assert (text == "") == (verdict != "undecided") and (text in ("", "never", "> 50") or 2 <= int(text) <= 50)
    order = {"never": 100, "> 50": 99}
    for _, of in rows.assign(takes=first["Seeds it takes"]).query("verdict == 'undecided'").groupby("task"):
        size = of["difference_without"].fillna(of["difference"]).abs()
        takes = [order.get(t) or int(t) for t in of["takes"].to_numpy()[np.argsort(-size.to_numpy())]]
        assert takes == sorted(takes)  # the larger the difference, the fewer
