"""The one rule of comparisons: what it claims, what it never claims, and the same numbers from plain numpy."""
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bertvision.comparisons import compare, compare_contributions, contributions, rule
from bertvision.core import DataError, ParameterError
from bertvision.levels import simulate
from bertvision.metrics import score
from bertvision.studies.claims import CLAIM_COLUMNS, claim, decide_claims
from bertvision.studies.results import example_study, read_study


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
    d = table[:len(a)] - table[len(a):]
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
    decided = decide_claims(pd.DataFrame([{"difference": 1.0, "p": np.nan, "reason": "one seed", "collapsed": 0,
                                           "difference_without": np.nan, "p_without": np.nan}]))
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
