"""Clusters: the same again, to a folder and back, refused before they cost too much, and never of other rows."""

import json
import os

import numpy as np
import pytest

from bertvision.core.errors import DataError, ParameterError
from bertvision.data.batches import tokenise
from bertvision.selection import clusters as module
from bertvision.selection.clusters import (
    Clusters,
    characteristic_words,
    check_alignment,
    cluster,
    forecast_clustering,
    load_clusters,
    nearest_texts,
    plot_map,
    principal_plane,
    repeated_vectors,
    rows_fingerprint,
    save_clusters,
    silhouette,
)
from bertvision.states.stream import Stream, extract, vectors_of

ASKED = {
    "kmeans": {"num_clusters": 5},
    "dbscan": {"eps": 0.15, "min_samples": 8},
    "hdbscan": {"min_samples": 5, "min_cluster_size": 20},
}


def made(seed=0, n=300, width=20, groups=4, noise=0.25):
    """Groups of unequal size, and which group each vector is of; -1 for the tenth that points anywhere."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.r_[-1, np.arange(groups)], n, p=np.r_[0.1, np.full(groups, 0.9 / groups)])
    directions = rng.normal(size=(groups, width))
    x = (
        np.where(truth[:, None] < 0, 0, directions[truth])
        + rng.normal(size=(n, width)) * np.where(truth < 0, 1, noise)[:, None]
    )
    return x.astype(np.float32), truth


def same(a, b):
    return all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() and getattr(a, name).dtype == getattr(b, name).dtype
        for name in ("labels", "centres", "distances")
    ) and (a.method, a.metric, a.settings, a.rows) == (b.method, b.metric, b.settings, b.rows)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", ASKED)
def test_the_same_seed_gives_the_same_clusters_whatever_the_parts(method, metric, monkeypatch):
    x, _ = made()
    more = ASKED[method] | ({"eps": 1.5} if (method, metric) == ("dbscan", "euclidean") else {})
    first = cluster(x, method, metric, **more)
    assert same(first, cluster(x, method, metric, **more)) and first.labels.dtype == np.int32
    monkeypatch.setattr(module, "PART", 7)
    parts = cluster(x, method, metric, **more)
    assert (parts.labels == first.labels).all()
    np.testing.assert_allclose(parts.centres, first.centres, atol=1e-5)
    np.testing.assert_allclose(parts.distances, first.distances, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_vectors_given_are_not_changed(dtype):
    x = made()[0].astype(dtype)
    before = x.copy()
    for method, more in ASKED.items():
        cluster(x, method, **more)
    principal_plane(x)
    assert (x == before).all() and x.dtype == dtype


def test_cosine_is_euclidean_on_unit_vectors():
    x, _ = made()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eps = 0.12
    pairs = 1 - unit @ unit.T <= eps
    assert (np.linalg.norm(unit[:, None] - unit, axis=2) <= (2 * eps) ** 0.5 + 1e-6)[pairs].all()
    for method, more in ASKED.items():
        cosine = cluster(x, method, **more | {"eps": eps})
        euclidean = cluster(unit, method, "euclidean", **more | {"eps": (2 * eps) ** 0.5})
        if method == "kmeans":
            assert (cosine.labels == (unit @ cosine.centres.T).argmax(1)).all()
        else:
            assert (cosine.labels == euclidean.labels).all()
        np.testing.assert_allclose(np.linalg.norm(cosine.centres, axis=1), 1, atol=1e-5)
        assert (
            cluster(x * np.linspace(0.1, 9, len(x))[:, None], method, **more | {"eps": eps}).labels == cosine.labels
        ).all(), "length matters"


@pytest.mark.parametrize("method", ASKED)
def test_distances_and_members_are_those_of_the_definition(method):
    x, _ = made()
    for metric in ("cosine", "euclidean"):
        found = cluster(x, method, metric, **ASKED[method] | ({"eps": 1.5} if metric == "euclidean" else {}))
        assert (
            (np.isnan(found.distances) == (found.labels < 0)).all()
            and found.sizes.sum() + found.noise == len(x)
            and found.sizes.min() > 0
        )
        for k in range(found.number):
            members = found.nearest(k)
            c = found.centres[k]
            d = (
                1 - x[members] @ c / np.linalg.norm(x[members], axis=1)
                if metric == "cosine"
                else np.linalg.norm(x[members] - c, axis=1)
            )
            np.testing.assert_allclose(found.distances[members], d, atol=1e-5)
            assert (found.labels[members] == k).all() and (np.diff(found.distances[members]) >= 0).all()


def test_noise_is_what_points_anywhere():
    x, truth = made()
    for method in ("dbscan", "hdbscan"):
        found = cluster(x, method, **ASKED[method])
        assert (
            found.number == 4
            and (found.labels[truth < 0] == -1).mean() > 0.7
            and (found.labels[truth >= 0] >= 0).mean() > 0.95
        )
        assert not np.isin(np.concatenate([found.nearest(k) for k in range(4)]), np.flatnonzero(found.labels < 0)).any()
    assert cluster(x, num_clusters=5).noise == 0


def test_centres_that_nobody_is_nearest_to_are_dropped():
    x = np.repeat(np.eye(3, 8, dtype=np.float32), [5, 6, 10], axis=0)
    found = cluster(x, num_clusters=9, seed=1)
    assert found.number == 3 and sorted(found.sizes) == [5, 6, 10] and found.settings["num_clusters"] == 9
    assert found.distances.max() < 1e-6


def test_principal_components_leave_the_centres_where_the_vectors_are():
    x, truth = made(width=30)
    for method, more in ASKED.items():
        found = cluster(x, method, "euclidean", reduce=5, **more | {"eps": 1.2})
        assert found.centres.shape == (found.number, 30) and found.settings["reduce"] == 5
        for k in range(found.number):
            np.testing.assert_allclose(found.centres[k], x[found.labels == k].mean(0), atol=1e-4)
    full = module.as_points(x, "euclidean", 30)
    np.testing.assert_allclose(
        np.linalg.norm(full[:20, None] - full[:20], axis=2), np.linalg.norm(x[:20, None] - x[:20], axis=2), atol=1e-3
    )


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"method": "kmean"}, ParameterError, "did you mean 'kmeans'"),
        ({"metric": "l2"}, ParameterError, "metric = 'l2': expected one of cosine, euclidean"),
        ({"num_clusters": 301}, ParameterError, "num_clusters = 301: there are only 300 examples"),
        ({"num_clusters": 0}, ParameterError, "expected at least 1"),
        ({"num_clusters": 5, "seed": -1}, ParameterError, "seed = -1"),
        ({"num_clusters": 5, "reduce": 21}, ParameterError, "at most 20 principal components"),
        ({"method": "dbscan", "eps": 0}, ParameterError, "eps = 0"),
        ({"method": "dbscan", "eps": float("nan")}, ParameterError, "eps = nan"),
        ({"method": "dbscan", "min_samples": 301}, ParameterError, "min_samples = 301"),
        ({"method": "hdbscan", "min_cluster_size": 1}, ParameterError, "min_cluster_size = 1: expected at least 2"),
        (
            {"method": "dbscan", "eps": 1e-5, "min_samples": 5},
            DataError,
            "leaves all 300 examples as noise: choose a larger eps",
        ),
        (
            {"method": "hdbscan", "min_cluster_size": 299, "min_samples": 299},
            DataError,
            "hdbscan with min_cluster_size = 299",
        ),
    ],
)
def test_settings_that_cannot_be_met(given, error, message):
    with pytest.raises(error, match=message):
        cluster(made()[0], **given)


@pytest.mark.parametrize(
    "broken, message", [(np.nan, "row 17: its vector holds NaN"), (np.inf, "row 17: its vector holds NaN or infinity")]
)
def test_broken_vectors_are_named_by_their_row(broken, message):
    x, _ = made()
    x[17, 3] = x[200, 0] = broken
    for method, more in ASKED.items():
        with pytest.raises(DataError, match=message):
            cluster(x, method, **more)
    with pytest.raises(DataError, match=message):
        principal_plane(x)


def test_what_is_no_array_of_vectors():
    x, _ = made()
    x[33] = 0
    with pytest.raises(DataError, match="row 33: its vector is zero"):
        cluster(x, num_clusters=5)
    assert len(cluster(x, metric="euclidean", num_clusters=5)) == 300
    for wrong in (x[0], x[:0], x.astype(int), x[None]):
        with pytest.raises(DataError, match="expected \\(examples, D\\)"):
            cluster(wrong, num_clusters=1)


def test_what_would_cost_too_much_is_refused_before_it_starts(monkeypatch):
    x, _ = made()
    for method, (_, costs) in list(module._METHODS.items()):
        monkeypatch.setitem(module._METHODS, method, (pytest.fail, costs))
    with pytest.raises(
        ParameterError,
        match=r"dbscan of 300 vectors of 20 numbers would take about .* GiB of memory "
        r"\(limit .* has \d+ neighbours within eps = 2; try reduce=32",
    ):
        cluster(x, "dbscan", eps=2, bytes_limit=100_000)
    with pytest.raises(ParameterError, match=r"minutes \(limit .*a smaller pool or method='kmeans'"):
        cluster(x, "hdbscan", seconds_limit=1e-9)
    with pytest.raises(ParameterError, match=r"minutes .*a smaller pool or fewer clusters"):
        cluster(x, num_clusters=5, seconds_limit=1e-9)
    monkeypatch.setattr(module, "_forecast", pytest.fail)
    with pytest.raises(ParameterError, match="kmeans of 300 vectors of 20 numbers would take about .* GiB"):
        cluster(x, num_clusters=5, bytes_limit=23_999)


def test_the_forecast_counts_neighbours():
    x, _ = made(n=256)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = forecast_clustering(x, "dbscan", eps=0.3)
    assert found["neighbours"] == pytest.approx((1 - unit @ unit.T <= 0.3).sum(1).mean(), rel=1e-3)
    assert found["bytes"] == int(256 * found["neighbours"] * 24) + x.nbytes and found["seconds"] > 0
    assert {"seconds", "bytes"} == set(forecast_clustering(x, num_clusters=5)) == set(forecast_clustering(x, "hdbscan"))
    with pytest.raises(ParameterError, match="there are only 256"):
        forecast_clustering(x)


@pytest.fixture
def folder(tmp_path):
    found = cluster(made()[0], "dbscan", rows="0123456789abcdef", **ASKED["dbscan"])
    return found, save_clusters(found, tmp_path / "clusters")


def test_round_trip(folder):
    found, place = folder
    back = load_clusters(place, rows="0123456789abcdef")
    assert same(found, back) and back.seconds == found.seconds and repr(back) == repr(found)
    assert same(found, load_clusters(place)) and sorted(os.listdir(place)) == ["clusters.json", "clusters.safetensors"]
    other = cluster(made()[0], num_clusters=5)
    save_clusters(other, place)
    assert same(load_clusters(place), other) and (load_clusters(place).nearest(2) == other.nearest(2)).all()


def edited(place, **changes):
    about = json.loads((place / "clusters.json").read_text())
    (place / "clusters.json").write_text(json.dumps({k: v for k, v in (about | changes).items() if v is not None}))


def test_other_rows(folder):
    _, place = folder
    with pytest.raises(DataError, match="clusters.json: these clusters were made from other rows, or in another order"):
        load_clusters(place, rows="feed")
    save_clusters(cluster(made()[0], num_clusters=5), place)
    with pytest.raises(DataError, match="other rows"):
        load_clusters(place, rows="feed")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schema": 2}, "schema 2, expected 1"),
        ({"schema": None}, "schema None"),
        ({"sizes": [1, 2]}, "labels contradict clusters.json, which counts 2 clusters"),
        ({"noise": 0}, "labels contradict"),
        ({"settings": None}, "'settings' is missing"),
        ({"rows": 3}, "'rows' is missing or not of type str"),
        ({"arrays": "0" * 16}, "clusters.safetensors is not the file"),
    ],
)
def test_edited_json(folder, changes, message):
    edited(folder[1], **changes)
    with pytest.raises(DataError, match=message):
        load_clusters(folder[1])


@pytest.mark.parametrize("name", ["clusters.json", "clusters.safetensors"])
def test_missing_and_cut_off_files(folder, name):
    path = folder[1] / name
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1 - (name == "clusters.json")):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=name):
            load_clusters(folder[1])
    path.unlink()
    with pytest.raises(DataError, match=f"{name} does not exist"):
        load_clusters(folder[1])


def test_arrays_of_another_clustering(folder, tmp_path):
    _, place = folder
    other = save_clusters(cluster(made()[0], num_clusters=5), tmp_path / "other")
    (place / "clusters.safetensors").write_bytes((other / "clusters.safetensors").read_bytes())
    with pytest.raises(DataError, match="clusters.safetensors: its labels contradict"):
        load_clusters(place)


def test_silhouette():
    x, truth = made(noise=0.1)
    found = cluster(x, "dbscan", **ASKED["dbscan"])
    assert silhouette(found, x) > 0.9 and silhouette(found, x, sample=50, seed=3) == silhouette(
        found, x, sample=50, seed=3
    )
    mixed = Clusters(
        "kmeans", "cosine", np.random.default_rng(0).permutation(found.labels), found.centres, found.distances
    )
    assert abs(silhouette(mixed, x)) < 0.1
    assert np.isnan(silhouette(cluster(x, num_clusters=1), x)) and np.isnan(silhouette(found, x, sample=1))
    with pytest.raises(DataError, match="10 vectors for clusters of 300"):
        silhouette(found, x[:10])


def test_words_and_texts():
    labels = np.array([0, 0, 1, 1, -1])
    found = Clusters("dbscan", "cosine", labels, np.eye(2), np.array([0.3, 0.1, 0, 0.2, np.nan]))
    texts = ["the tax and the court", "the court of a tax tax", "soup with the onion", "onion with onion", "zebra"]
    assert characteristic_words(found, texts, 2) == [["tax", "court"], ["onion", "soup"]]
    assert nearest_texts(found, texts, 0) == [texts[1], texts[0]] and nearest_texts(found, texts, 1, 1) == [texts[2]]
    assert characteristic_words(found, ["the", "of", "and", "", "a"]) == [[], []]
    with pytest.raises(ParameterError, match="cluster 2"):
        nearest_texts(found, texts, 2)


def test_map_draws_every_point_and_names_the_largest():
    x, _ = made(n=600, groups=15, width=40)
    found = cluster(x, num_clusters=20)
    words = [[f"word{k}", "b", "c", "d"] for k in range(found.number)]
    fig = plot_map(principal_plane(x), found, found.labels % 3, ["e", "n", "c"], words)
    drawn = [sum(len(c.get_offsets()) for c in ax.collections) for ax in fig.axes]
    assert drawn == [600, 600] and [t.get_text() for t in fig.axes[1].get_legend().get_texts()] == ["e", "n", "c"]
    named = {t.get_text() for t in fig.axes[0].texts}
    assert named == {f"word{k}, b, c" for k in np.argsort(-found.sizes, kind="stable")[:12]}
    boxes = [t.get_window_extent() for t in fig.axes[0].texts]
    assert sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]) <= 2


@pytest.fixture(scope="module")
def encoder():
    from bertvision import load_encoder

    return load_encoder("tiny-random")


@pytest.fixture(scope="module")
def rows():
    from bertvision import load_task, subset

    return subset(load_task("toy-entailment")["train"], 150, seed=0)


@pytest.fixture(scope="module")
def tokens(encoder, rows):
    return tokenise(rows, encoder.tokenizer, cached=False)


@pytest.mark.parametrize("kind", ["cls", "mean"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32", "int8"])
def test_vectors_lie_where_their_rows_are(encoder, tokens, tmp_path, kind, dtype):
    stream = Stream(encoder, tokens, kind, precision="fp32")
    one_by_one = np.stack([stream.batch([i]).values[0].numpy() for i in range(len(tokens))])
    for layer in (0, 1, 2, -1):
        np.testing.assert_allclose(vectors_of(stream, layer), one_by_one[:, layer], atol=1e-5)
    stored = extract(encoder, tokens, tmp_path / "v.h5", kind=kind, dtype=dtype, layers=[0, 2])
    assert rows_fingerprint(stored) == rows_fingerprint(stream)
    np.testing.assert_allclose(vectors_of(stored, 2), one_by_one[:, 2], atol=0.1)
    check_alignment(stored, stream, layer=2)
    check_alignment(vectors_of(stored), stream, sample=150)
    with pytest.raises(ParameterError, match=r"layer = 1: expected one of \[0, 2\]"):
        vectors_of(stored, 1)


def test_moved_rows_are_noticed(encoder, rows, tokens, tmp_path):
    fresh = Stream(encoder, tokens, "mean")
    x = vectors_of(fresh)
    for sample in (2, 8):
        with pytest.raises(DataError, match=r"row \d+ \(example '.*'\): vectors have been moved"):
            check_alignment(np.roll(x, 1, 0), fresh, sample=sample)
    stored = extract(encoder, tokens, tmp_path / "v.h5", kind="mean", dtype="fp32")
    place, values = stored.places["states"], stored.batch(range(150), dtype=None).values.numpy()
    with open(stored.path, "r+b") as f:  # moved within the file, behind the hashes' back
        f.seek(place.offset)
        f.write(np.roll(values, 5, 0).tobytes())
    from bertvision.states.store import open_states

    with pytest.raises(DataError, match="vectors have been moved"):
        check_alignment(open_states(stored.path, tokens=tokens), fresh)
    backwards = Stream(encoder, tokenise(rows.select(range(149, -1, -1)), encoder.tokenizer, cached=False), "mean")
    assert rows_fingerprint(backwards) != rows_fingerprint(fresh)
    with pytest.raises(DataError, match="other rows, or in another order"):
        check_alignment(fresh, backwards)
    with pytest.raises(DataError, match="10 vectors for 150 rows"):
        check_alignment(x[:10], fresh)


def test_moved_rows_are_noticed_where_all_texts_look_alike_and_values_are_rounded():
    rng = np.random.default_rng(0)
    x = (1 + 0.005 * rng.normal(size=(60, 64))).astype(np.float32)
    rounded = x + 0.005 * rng.normal(size=x.shape).astype(np.float32)
    ids = [str(i) for i in range(60)]
    for start in range(0, 60, 10):
        some = np.arange(start, start + 10)
        module._compare(rounded[some], x[some], some, ids)
        with pytest.raises(DataError, match="moved"):
            module._compare(rounded[(some + 1) % 60], x[some], some, ids)
    twins = x[[0, 1, 1, 2]]
    module._compare(twins[[0, 2, 1, 3]], twins, np.arange(4), ids)  # the same text twice


def test_vectors_of_another_encoder_are_noticed(tokens, encoder):
    import torch

    from bertvision import load_encoder

    other = load_encoder("tiny-random")
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(DataError, match="another encoder made them"):
        check_alignment(Stream(other, tokens, "cls"), Stream(encoder, tokens, "cls"))


def test_repeated_batches_are_noticed(encoder, tokens):
    fresh = Stream(encoder, tokens, "cls")
    x = vectors_of(fresh)
    again = np.concatenate([x[:16]] * 10)[:150]
    for act in (lambda: check_alignment(again, fresh), lambda: cluster(again, num_clusters=5)):
        with pytest.raises(DataError, match="repeated vectors: rows 16 to 31 equal rows 0 to 15"):
            act()


@pytest.mark.parametrize("period", [0, 1, 3, 64, 75])
def test_periods(period):
    x = made(n=150)[0].astype(np.float16)
    repeated = x[np.arange(150) % period] if period else x
    assert repeated_vectors(repeated) == period
    if period == 1:
        with pytest.raises(DataError, match="all 150 vectors are the same"):
            cluster(repeated, num_clusters=5)
    x = repeated.copy()
    x[-1] += 1
    assert repeated_vectors(x) == 0  # a single row that is its own
