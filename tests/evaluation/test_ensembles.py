"""Ensembles of real fits: predictions of one split align, also after a trip through Parquet; others do not."""

import numpy as np
import pandas as pd
import pytest

from bertvision import fit, load_encoder, load_task, subset
from bertvision.core.errors import DataError
from bertvision.evaluation.ensembles import align, combine, compare, merge, table_scores, tune_weight


def predictions(task: str, **changes):
    data = load_task(task)
    data.splits["train"] = subset(data["train"], 400, seed=0)
    settings = {"epochs": 2, "lr": 1e-3, "batch_size": 32, "precision": "fp32", **changes}
    return fit(load_encoder("tiny-random", data.task), data, **settings)


@pytest.fixture(scope="module", params=["toy-entailment", "toy-similarity"])
def fits(request):
    return [predictions(request.param, seed=s) for s in (0, 1)]


def test_tables_of_fits_combine_and_read_back(fits, tmp_path):
    task = fits[0].encoder.task
    tables = []
    for i, f in enumerate(fits):
        f.predictions.to_parquet(tmp_path / f"{i}.parquet", index=False)
        tables.append(pd.read_parquet(tmp_path / f"{i}.parquet"))
    ways = ("maximum", "mean", "logits", "tuned") if task.kind == "classification" else ("mean", "tuned")
    for how in ways:
        ours = combine([f.predictions for f in fits], how, metric=task.metrics[0])
        assert list(ours.columns) == list(tables[0].columns) and len(ours) == len(tables[0])
        pd.testing.assert_frame_equal(combine(tables, how, metric=task.metrics[0]), ours, check_dtype=False)
        ours.to_parquet(tmp_path / "ours.parquet", index=False)
        again = combine([pd.read_parquet(tmp_path / "ours.parquet")] * 2)  # an ensemble is a table like any other
        assert np.allclose(again.prediction, ours.prediction)


def test_single_scores_are_those_of_the_fits(fits):
    task, models = fits[0].encoder.task, {f"seed {i}": f.predictions for i, f in enumerate(fits)}
    table = compare(models, task.metrics)
    for name, f in zip(models, fits):
        for split, scores in f.metrics.items():
            for metric, value in scores.items():
                assert table.loc[name, f"{split} {metric}"] == pytest.approx(value, nan_ok=True)
    assert table.weight.notna().sum() == 1 and table.loc["tuned", "weight"] == tune_weight(
        list(models.values()), task.metrics[0]
    )
    assert table.drop(columns="weight").notna().all(axis=None)  # or the next line would compare nothing
    best = table.loc[list(models), f"selection {task.metrics[0]}"].max()
    assert table.loc["tuned", f"selection {task.metrics[0]}"] >= best - 1e-6  # fits keep float32


def test_other_selection_parts_do_not_fit():
    one, other = (predictions("toy-acceptability", split_seed=s).predictions for s in (0, 1))
    with pytest.raises(DataError, match=r"\(selection\).*expected the same examples"):
        align([one, other])
    reported = [t[t.split == "validation"] for t in (one, other)]
    assert set(combine(reported).split) == {"validation"}
    with pytest.raises(DataError, match="no rows of the split 'selection'"):
        combine(reported, "tuned", metric="matthews")
    with pytest.raises(DataError, match="label sets"):
        align([one, predictions("toy-sentiment").predictions])


def test_merge_equals_the_naive_loop():
    rng = np.random.default_rng(0)
    stack, w = rng.dirichlet(np.ones(4), (3, 50)), [0.5, 0.2, 0.3]  # (3, 50, 4)
    for n in range(50):
        p = stack[:, n]
        product = np.prod([p[k] ** w[k] for k in range(3)], axis=0)
        assert np.allclose(merge(stack, "logits", w)[n], product / product.sum())
        assert np.allclose(merge(stack, "mean", w)[n], sum(w[k] * p[k] for k in range(3)))
        top = [max(p[:, c]) for c in range(4)]
        assert np.allclose(merge(stack, "maximum")[n], np.array(top) / sum(top))


def test_logits_are_the_mean_of_the_models_own_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 30, 3)) * 5
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    assert np.allclose(merge(softmax(logits), "logits"), softmax(logits.mean(0)))


def test_order_of_splits_and_missing_labels():
    table = pd.DataFrame(
        {"split": "test", "example_id": ["test/1", "test/0"], "label": np.nan, "prediction": [1.0, 2.0]}
    )
    ours = combine([table, table.iloc[::-1]])  # unlabelled scores can be combined, not scored
    assert ours.prediction.tolist() == [2.0, 1.0]
    with pytest.raises(DataError, match="NaN"):
        table_scores(ours, "pearson")
