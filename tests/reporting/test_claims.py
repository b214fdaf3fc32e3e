"""The one rule of comparisons: what it claims, what it never claims, and the same numbers from plain numpy."""

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_lab import FINISH, START, Lab, change, pretend_done

from bertvision.core.errors import DataError, ParameterError
from bertvision.core.io import write_json
from bertvision.metrics.comparisons import compare, compare_contributions, contributions, rule
from bertvision.metrics.levels import simulate
from bertvision.metrics.scores import score
from bertvision.reporting.claims import CLAIM_COLUMNS, claim, decide_claims
from bertvision.reporting.glue import write_report
from bertvision.reporting.methods import against
from bertvision.reporting.results import example_study, glue_table, read_study


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return example_study(tmp_path_factory.mktemp("study"))


def by_hand(folder, a, b):
    """Difference, interval and p of accuracy, from the files of the runs, in another way than the package's."""
    right = []
    for run in (*a, *b):
        rows = pd.read_parquet(folder / "runs" / run / "predictions.parquet").set_index("example_id").sort_index()
        right.append((rows["label"] == rows["prediction"]).astype(float))
    table = pd.concat(right, axis=1).to_numpy().T
    d = table[: len(a)] - table[len(a) :]
    n, count = d.shape
    total = ((d - d.mean()) ** 2).sum()
    ss_seeds, ss_examples = count * ((d.mean(1) - d.mean()) ** 2).sum(), n * ((d.mean(0) - d.mean()) ** 2).sum()
    ms = ss_seeds / (n - 1), ss_examples / (count - 1), (total - ss_seeds - ss_examples) / ((n - 1) * (count - 1))
    of_seeds, of_examples, rest = (x / (n * count) for x in ms)
    variance = max(of_seeds + of_examples - rest, of_seeds, of_examples)
    df = 1 / ((of_seeds / (n - 1) + of_examples / (count - 1)) / variance)
    found = []
    for v, k in ((variance, df), (of_seeds, n - 1)):
        half = stats.t.ppf(0.975, k) * v**0.5
        found.append((2 * half, d.mean() - half, d.mean() + half, 2 * stats.t.sf(abs(d.mean()) / v**0.5, k)))
    wide = max(found)
    return d.mean(), wide[1], wide[2], max(f[3] for f in found)


def test_a_claim_is_what_plain_numpy_says(example):
    study = read_study(example)
    a, b = [f"finetune.cola.s{s}" for s in (0, 1, 2)], [f"finetune.rte.s{s}" for s in (0, 1, 2)]
    found = claim(study, dict(enumerate(a)), dict(enumerate(b)), "validation", "accuracy")
    assert np.allclose([found[k] for k in ("difference", "low", "high", "p")], by_hand(example, a, b), rtol=1e-9)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])
@pytest.mark.parametrize("ties", [False, True])
def test_contributions_have_the_score_as_their_mean_and_the_jackknifes_spread(metric, ties):
    rng = np.random.default_rng(1)
    if metric in ("pearson", "spearman"):
        y = rng.integers(0, 4, 120).astype(float) if ties else rng.normal(size=120)
        p = np.round(y + rng.normal(size=120), 0 if ties else 9)
    else:
        y = rng.integers(0, 2, 120)
        p = np.where(rng.random(120) < 0.7, y, 1 - y)
    each = contributions(metric, p, y)
    assert np.isclose(each.mean(), score(metric, p, y)[metric])
    left_out = np.array([score(metric, np.delete(p, i), np.delete(y, i))[metric] for i in range(120)])
    assert 0.9 < each.std() / (119 * left_out.std()) < 1.1


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_are_defined(constant):
    y = np.r_[np.ones(30, int), np.zeros(20, int)]
    said = np.full((3, 50), constant)
    for metric in ("accuracy", "f1", "matthews"):
        found = compare(metric, said, said, y)
        assert (found.value, found.p) == (0.0, 1.0)
    assert contributions("pearson", np.full(50, 0.5), y.astype(float)).tolist() == [0.0] * 50


def test_nan_and_unequal_sides_are_errors_that_say_so():
    y = np.zeros(10)
    with pytest.raises(DataError, match="prediction 3 is nan"):
        contributions("pearson", np.where(np.arange(10) == 3, np.nan, 1.0), y)
    with pytest.raises(ParameterError, match="2 runs of A and 3 of B"):
        compare("accuracy", np.zeros((2, 10)), np.zeros((3, 10)), y)
    with pytest.raises(ParameterError, match="a matrix of finite numbers"):
        compare_contributions(np.full((2, 3), np.nan))


def test_one_seed_claims_nothing_whatever_the_difference():
    y = np.zeros(1000, int)
    found = compare("accuracy", y[None], 1 - y[None], y)
    assert found.value == 1.0 and np.isnan(found.p) and found.reason == "one seed"
    decided = decide_claims(
        pd.DataFrame(
            [
                {
                    "difference": 1.0,
                    "p": np.nan,
                    "reason": "one seed",
                    "collapsed": 0,
                    "difference_without": np.nan,
                    "p_without": np.nan,
                }
            ]
        )
    )
    assert decided["verdict"].tolist() == ["no claim"] and rule(decided).startswith("No difference is claimed")


def test_seeds_that_agree_by_luck_do_not_convince_a_family():
    rng = np.random.default_rng(0)
    d = np.stack([rng.permutation(np.r_[np.ones(25), -np.ones(10), np.zeros(242)]) for _ in range(2)])
    assert compare_contributions(d).p > 0.05 / 12


def test_a_family_of_nothing_has_its_columns():
    empty = decide_claims(pd.DataFrame(columns=CLAIM_COLUMNS))
    assert {"p_holm", "verdict", "fragile"} <= set(empty) and not len(empty)


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "pearson"])
def test_the_rule_is_seldom_wrong_where_todays_rules_often_were(metric):
    found = simulate(metric, 277, "alike", 4.5, studies=150).set_index(["rule", "comparisons", "seeds"])["any_claim"]
    assert found["both"].max() < 0.12 and found["examples"].xs(12, level="comparisons").min() > 0.3


# What a report does with runs that cannot be compared: each is named, none is averaged in silence.

STEPS = """
    tasks: [toy-sentiment]
    encoders: [tiny-random]
    seeds: [0, 1, 2, 3]
    steps: {learn: {}, other: {experiment: learn}}
"""


@pytest.fixture
def pair(tmp_path):
    """A study of two methods, `other` clearly the better, and what its report says of them after a change."""
    lab = Lab(tmp_path)
    lab.experiment(START, FINISH)
    lab.study(STEPS)
    plan, labels = lab.plan(), np.arange(200) % 2
    for job in plan.jobs:
        rng = np.random.default_rng([job.grid["seed"], job.step == "other"])
        said = np.where(rng.random(200) < (0.9 if job.step == "other" else 0.6), labels, 1 - labels)
        save(
            job.folder,
            said,
            labels,
            lambda found, job=job: pretend_done(job, metrics={"validation": {"accuracy": found}}),
        )
    jobs = [{"run": j.id, "step": j.step, **j.grid} for j in plan.jobs]
    write_json(
        plan.folder / "plan.json",
        {"study": "small", "title": "Mine", "jobs": jobs, "titles": {"learn": "Plain", "other": "Other"}},
    )
    return plan.folder


def save(folder, said, labels, with_score):
    with_score(float(np.mean(said == labels)))
    ids = [f"dev/{i}" for i in range(len(labels))]
    pd.DataFrame({"split": "validation", "example_id": ids, "label": labels, "prediction": said}).to_parquet(
        folder / "predictions.parquet", index=False
    )


def told(folder):
    """(what the study's comparison says, the page)."""
    study = read_study(folder)
    return against(study, glue_table(study)).iloc[0].to_dict(), (write_report(folder) / "table.md").read_text()


def run_of(folder, step, seed):
    return folder / "runs" / f"{step}.toy-sentiment.tiny-random.s{seed}"


def rescored(folder, step, seed, said):
    """Give a run other predictions, and the record the score that they have."""
    run, labels = run_of(folder, step, seed), np.arange(200) % 2
    save(
        run,
        said,
        labels,
        lambda found: change(folder, run.name, lambda r: r.update(metrics={"validation": {"accuracy": found}})),
    )


def test_all_seeds_are_compared_where_nothing_is_wrong(pair):
    row, page = told(pair)
    assert (row["verdict"], row["seeds"], row["note"]) == ("better", 4, "") and "Other is better" in page


def test_a_run_without_predictions_is_left_out_of_the_comparison_and_named(pair):
    (run_of(pair, "other", 1) / "predictions.parquet").unlink()
    row, page = told(pair)
    assert (
        row["seeds"] == 3 and "predictions missing (seed 1)" in row["note"] and "predictions missing (seed 1)" in page
    )


def test_seeds_of_one_side_alone_are_named(pair):
    shutil.rmtree(run_of(pair, "learn", 0))
    shutil.rmtree(run_of(pair, "other", 3))
    row, page = told(pair)
    assert (
        row["seeds"] == 2
        and "of one side alone (seeds 0, 3)" in row["note"]
        and "of one side alone (seeds 0, 3)" in page
    )


def test_no_seed_in_common_is_no_claim(pair):
    for seed in (0, 1):
        shutil.rmtree(run_of(pair, "learn", seed))
    for seed in (2, 3):
        shutil.rmtree(run_of(pair, "other", seed))
    row, page = told(pair)
    assert row["verdict"] == "no claim" and "no seed in common" in row["reason"] and "no seed in common" in page


def test_predictions_that_are_no_number_are_left_out_and_named(pair):
    said = (np.arange(200) % 2).astype(float)
    said[7] = np.nan
    labels, run = np.arange(200) % 2, run_of(pair, "other", 2)
    save(run, said, labels, lambda found: None)
    row, page = told(pair)
    assert row["seeds"] == 3 and "is nan" in row["note"] + page and "seed 2" in row["note"] and run.name in page


@pytest.mark.parametrize("value", [np.nan, None])
def test_a_score_that_is_no_number_is_no_part_of_a_mean(pair, value):
    change(pair, run_of(pair, "other", 2).name, lambda r: r.update(metrics={"validation": {"accuracy": value}}))
    _, page = told(pair)
    assert run_of(pair, "other", 2).name in page and ("undefined" in page or "contradicts" in page)


def test_one_seed_is_no_claim_and_the_page_says_why(pair):
    for seed in (1, 2, 3):
        for step in ("learn", "other"):
            shutil.rmtree(run_of(pair, step, seed))
    row, page = told(pair)
    assert (row["verdict"], row["reason"]) == ("no claim", "one seed") and "No claim can be made (one seed)" in page


def test_a_method_with_only_collapsed_runs_is_named_as_such(pair):
    for seed in range(4):
        rescored(pair, "learn", seed, np.ones(200, int))
    row, page = told(pair)
    assert (
        row["collapsed"] == 4
        and row["fragile"]
        and "fragile: nothing left without collapsed seeds" in page
        and "all 4 collapsed" in page
        and "+nan" not in page
    )
