"""Subsets chosen and trained on, from the command line to the records: every mode of the original, and wrong inputs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from study_lab import run_small

from bertvision import load_task, split
from bertvision.core.errors import DataError, ParameterError
from bertvision.data.splits import part_of
from bertvision.runs.records import read_record
from bertvision.selection.clusters import cluster, load_clusters
from bertvision.selection.strategies import STRATEGIES, Pool, choose_rows, describe_selection, select
from bertvision.selection.subsets import examples_pool, load_selection, take

STUDY = """
tasks: [toy-entailment]
encoders: [tiny-random]
seeds: [0]
steps:
  full:
    experiment: train_subset
    parameters: {data_pct: 1.0, epochs: 2, evaluations: 2, lr: 1e-3, keep_epochs: true, train_examples: 300}
  select:
    experiment: select_examples
    needs: {dynamics: full}
    parameters:
      strategies: [diverse, centroids, ambiguous]
      data_count: [20, 40]
      data_pct: []
      num_clusters: 8
      train_examples: 300
  subset:
    experiment: train_subset
    needs: [select]
    sweep: {strategy: [ambiguous]}
    parameters: {data_pct: 0.0, data_count: 40, steps: 12, lr: 1e-3, freeze: -2, train_examples: 300}
  whole:
    experiment: select_examples
    needs: [select]
    parameters:
      num_clusters_elements: 3
      num_clusters: 8
      cluster_input: ../select.toy-entailment.tiny-random.s0/clusters
      train_examples: 300
  near:
    experiment: select_examples
    parameters: {centroid_elements_only: true, num_clusters: 8, pooling: cls, layer: 1, train_examples: 300}
  only:
    experiment: select_examples
    parameters:
      cluster_only: true
      cluster_output: ../kept
      clusterer: hdbscan
      min_samples: 5
      min_cluster_size: 8
      train_examples: 300
  wrong: {experiment: select_examples, parameters: {data_count: [5]}}
  seeded:
    experiment: train_subset
    needs: [select]
    parameters: {strategy: diverse, subset_seed: 1, train_examples: 300}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small study, run to its end; two of its runs are asked for something impossible."""
    return run_small(tmp_path_factory.mktemp("lab"), "small", STUDY, code=1)


def run_of(study, name):
    return next(p for p in (study / "runs").iterdir() if p.name.startswith(name))


def test_subsets_are_what_was_chosen(done):
    record = read_record(run_of(done, "subset"))
    assert record["subset"]["examples"] == record["examples"]["train"] == 40 and record["steps"] == 12
    assert record["subset"]["arm"] == "steps" and record["parameters"]["freeze"] == -2
    chosen, centroids = (
        load_selection(run_of(done, "select") / "selections", name) for name in ("ambiguous", "centroids")
    )
    assert chosen.nested and chosen.seconds[""] == record["upstream_seconds"] > 0
    assert not centroids.nested and set(centroids.orders) == {"20", "40"} and centroids.seconds["20"] > 0
    with pytest.raises(DataError, match="other examples than these"):
        take(
            load_selection(run_of(done, "select") / "selections", "diverse"),
            examples_pool(split(load_task("toy-entailment"), seed=0)),
            20,
        )


def test_a_training_that_was_asked_is_paid_for(done):
    trained = read_record(run_of(done, "full"))["seconds"]["train"]
    told = {row["strategy"]: row["seconds"] for row in read_record(run_of(done, "select"))["selections"]}
    assert told["ambiguous"] > trained > 0


def test_what_the_record_of_a_choice_says(done):
    record, place = read_record(run_of(done, "select")), run_of(done, "select")
    assert (
        record["vectors"]["side"] == "pretrained"
        and record["vectors"]["layer"] == 2
        and record["clusters"]["number"] == 8
    )
    assert {(r["strategy"], r["examples"]) for r in record["selections"]} == {
        (s, n) for s in ("diverse", "centroids", "ambiguous") for n in (20, 40)
    }
    assert all(abs(sum(r["labels"].values()) - 1) < 1e-9 for r in record["selections"])
    assert next(r["clusters"] for r in record["selections"] if r["strategy"] == "diverse") == 1.0
    assert len(record["overlap"]) == 6 and len(pd.read_parquet(place / "map.parquet")) == record["pool"] == 270


def test_the_modes_of_the_original(done):
    clusters = load_clusters(run_of(done, "select") / "clusters")
    whole, near = (
        load_selection(run_of(done, name) / "selections", strategy)
        for name, strategy in (("whole", "clusters"), ("near", "centroids"))
    )
    ids = examples_pool(split(part_of(load_task("toy-entailment"), 300, seed=0), seed=0)).ids
    members = {id for id, k in zip(ids, clusters.labels) if k < 3}
    assert set(whole.orders[""]) == members
    told = read_record(run_of(done, "whole"))  # the saved clusters' own settings, not those that stand beside them
    assert (
        "num_clusters" not in told["parameters"]
        and "clusterer" not in told["parameters"]
        and told["clusters"]["number"] == 8
    )
    assert len(near.orders["8"]) == read_record(run_of(done, "near"))["clusters"]["number"] == 8
    assert len(take(whole, Pool(ids, np.zeros(270), identity=whole.pool))[0]) == len(
        members
    )  # a choice with one budget needs none


def test_cluster_only_chooses_nothing(done):
    assert read_record(run_of(done, "only"))["selections"] == [] and not (run_of(done, "only") / "selections").exists()
    assert np.array_equal(
        load_clusters(done / "runs" / "kept").labels, load_clusters(run_of(done, "only") / "clusters").labels
    )


def test_a_wrong_parameter_is_named(done):
    assert "data_count = [5]: expected one of the two lists" in (run_of(done, "wrong") / "record.json").read_text()
    assert (
        "subset_seed = 1: expected -1, the choice in select_dir" in (run_of(done, "seeded") / "record.json").read_text()
    )


# ---- strategies on pools that a notebook does not show


def pool(n=400, seed=0, dimensions=8):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 12, n)
    vectors = (rng.normal(size=(12, dimensions))[group] + 0.2 * rng.normal(size=(n, dimensions))).astype(np.float32)
    return Pool(
        [f"train/{i}" for i in range(n)], rng.integers(0, 3, n), vectors, cluster(vectors, num_clusters=12, seed=seed)
    )


def test_noise_comes_last():
    p = pool()
    p.clusters.labels[::5] = -1
    for name in ("clusters", "diverse", "diverse-near", "diverse-far"):
        rows = choose_rows(name, p, 400)
        assert (p.clusters.labels[rows[:320]] >= 0).all() and (p.clusters.labels[rows[320:]] == -1).all()


def test_round_robin_takes_turns_until_a_cluster_is_empty():
    p = pool()
    seen = np.zeros(12, int)
    for row in choose_rows("diverse", p, 400, seed=3):
        k = p.clusters.labels[row]
        waiting = [j for j in range(12) if seen[j] < p.clusters.sizes[j]]
        assert seen[k] == min(seen[j] for j in waiting)
        seen[k] += 1


def test_facility_location_is_greedy():
    p = pool(120)
    x = p.vectors / np.linalg.norm(p.vectors, axis=1, keepdims=True)
    similar, best = np.maximum(x @ x.T, 0).astype(np.float64), np.zeros(120)
    for row in choose_rows("facility", p, 30):
        gains = np.maximum(similar - best, 0).sum(1)
        assert gains[row] >= gains.max() - 1e-3
        best = np.maximum(best, similar[row])


def test_k_center_adds_the_farthest():
    p = pool(150)
    rows = choose_rows("k-center", p, 20, metric="euclidean", seed=1)
    away = np.linalg.norm(p.vectors[:, None] - p.vectors[rows], axis=2)
    for k in range(1, 20):
        assert away[rows[k], :k].min() >= away[:, :k].min(1).max() - 1e-3


def test_budget_of_all_is_everything():
    p = pool()
    for name, strategy in STRATEGIES.items():
        if "dynamics" in strategy.needs:
            continue
        if name == "centroids":
            continue  # as many clusters as examples: its own test above has the modes
        assert sorted(select(name, p, 400)) == sorted(p.ids)


def test_facility_location_refuses_a_pool_that_does_not_fit(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "facility", replace(STRATEGIES["facility"], max_pool=399))
    with pytest.raises(ParameterError, match="compares all pairs: 400 examples would need 0 GiB, expected at most 399"):
        choose_rows("facility", pool(), 3)


def test_a_greedy_choice_that_would_take_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("bertvision.selection.strategies.PATIENCE", 1e-6)
    with pytest.raises(DataError, match="k-center of 300 among 400 examples would take about"):
        choose_rows("k-center", pool(), 300)


def test_metric_and_seed_are_checked():
    for given, message in ((dict(metric="cosin"), "did you mean 'cosine'"), (dict(seed=-1), "seed = -1")):
        with pytest.raises(ParameterError, match=message):
            choose_rows("random", pool(), 3, **given)


def test_coverage_is_not_measured_on_the_chosen_themselves(monkeypatch):
    monkeypatch.setattr("bertvision.selection.strategies.COVERED", 100)
    p = pool()
    away = [
        describe_selection(p, choose_rows("random", p, 100, seed=seed), ("a", "b", "c"))["distance"]
        for seed in range(6)
    ]
    assert max(away) < 1.3 * min(away)
