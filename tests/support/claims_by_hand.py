"""Comparisons made again from records and predictions, with numpy, scipy.stats and pyarrow alone.

Nothing here is shared with the package: scores are functions of means, and the influence of an example is their
derivative; the variances come from sums of squares; Holm, collapse and fragile are written down once more.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats

# task -> (what tables call it, headline metric, headline split)
TASKS = {
    "cola": ("CoLA", "matthews", "validation"),
    "mrpc": ("MRPC", "accuracy", "validation"),
    "rte": ("RTE", "accuracy", "validation"),
    "sts-b": ("STS-B", "pearson", "validation"),
    "sst-2": ("SST-2", "accuracy", "validation"),
    "mnli": ("MNLI", "accuracy", "validation_matched"),
    "imdb": ("IMDB", "accuracy", "test"),
    "squad1": ("SQuAD 1.1", "answer_f1", "validation"),
    "squad2": ("SQuAD 2.0", "answer_f1", "validation"),
    "squad1-articles": ("SQuAD 1.1, articles", "answer_f1", "test"),
    "squad2-articles": ("SQuAD 2.0, articles", "answer_f1", "test"),
    "toy-recall": ("Toy recall", "accuracy", "validation"),
    "toy-length": ("Toy length", "accuracy", "validation"),
    "toy-word": ("Toy word", "accuracy", "validation"),
    "toy-shift": ("Toy shift", "accuracy", "validation"),
    "toy-number": ("Toy number", "accuracy", "validation"),
    "toy-depth": ("Toy depth", "accuracy", "validation"),
}
METRICS = {
    "Matthews": "matthews",
    "Accuracy": "accuracy",
    "Pearson": "pearson",
    "Spearman": "spearman",
    "F1": "answer_f1",
    "Exact match": "exact_match",
    "HasAns F1": "has_answer_f1",
    "Accuracy (matched)": "accuracy",
    "HANS accuracy": "accuracy",
}
KINDS = {"train_heads": "heads", "ensemble": "ensembles", "finetune": "more fine-tuning"}


# scores as functions of means over examples


def _f1(said, label):
    moments = np.stack([said * label, said, label], 1).astype(float)
    return moments, lambda m: 2 * m[0] / (m[1] + m[2]) if m[1] + m[2] else 0.0


def _matthews(said, label):
    """Gorodkin's correlation of two classifications, from the joint and the marginal shares."""
    classes = np.unique(np.concatenate([said, label]))
    k = len(classes)
    mine, true = said[:, None] == classes, label[:, None] == classes  # (N, k)
    moments = np.concatenate([(said == label)[:, None], mine, true], 1).astype(float)

    def value(m):
        p, t = m[1 : 1 + k], m[1 + k :]
        spread = (1 - p @ p) * (1 - t @ t)
        return (m[0] - p @ t) / np.sqrt(spread) if min(1 - p @ p, 1 - t @ t) > 1e-12 else 0.0

    return moments, value


def _pearson(said, label):
    """The means are taken out first: a correlation does not know them, and small differences of large numbers do."""
    a, b = said - said.mean(), label - label.mean()
    a, b = a / (np.abs(a).max() or 1), b / (np.abs(b).max() or 1)
    moments = np.stack([a, b, a * a, b * b, a * b], 1)

    def value(m):
        spread = (m[2] - m[0] ** 2) * (m[3] - m[1] ** 2)
        return (m[4] - m[0] * m[1]) / np.sqrt(spread) if spread > 1e-18 else 0.0

    return moments, value


def _counted(own, counts):
    return np.stack([own * counts, counts], 1).astype(float), lambda m: m[0] / m[1] if m[1] else 0.0


def _right(said, label):
    return (said == label).astype(float)[:, None], lambda m: m[0]


def _spearman(said, label):
    """Correlation of ranks. An example that weighs more moves the ranks of those above it, too."""
    below = [(x[:, None] > x) + 0.5 * (x[:, None] == x) for x in (said, label)]  # (N, N): how far row is above column
    f, g = (b.mean(1) for b in below)
    moved_f, moved_g = (b.mean(0) - b.mean() for b in below)
    cross = below[0].T @ g / len(f) - (f * g).mean() + below[1].T @ f / len(f) - (f * g).mean()
    square_f, square_g = (2 * (b.T @ x / len(x) - (x * x).mean()) for b, x in zip(below, (f, g)))
    moments = np.stack([f + moved_f, g + moved_g, f * f + square_f, g * g + square_g, f * g + cross], 1)
    return moments, lambda m: (m[4] - m[0] * m[1]) / np.sqrt((m[2] - m[0] ** 2) * (m[3] - m[1] ** 2))


FORMULAS = {"accuracy": _right, "f1": _f1, "matthews": _matthews, "pearson": _pearson, "spearman": _spearman}
SPANS = re.compile(
    r"(has_answer_|no_answer_)?(answer_f1|f1|exact_match)"
)  # of questions: means of what each has scored


def contributions(metric, said, label):
    """Score of all plus the influence of each: the derivative of the score where an example weighs a little more."""
    if metric not in FORMULAS and not SPANS.fullmatch(metric):
        raise LookupError(f"no formula for {metric}")
    moments, value = FORMULAS.get(metric, _counted)(said, label)
    mean = moments.mean(0)
    step = 1e-5
    slope = [(value(mean + step * e) - value(mean - step * e)) / (2 * step) for e in np.eye(len(mean))]
    return value(mean) + (moments - mean) @ slope


def defined(metric, said, label):
    """Whether a score moves at all when an example does: not for a constant answer."""
    if metric in ("pearson", "spearman"):
        return np.ptp(said) > 0 and np.ptp(label) > 0
    if metric == "matthews":
        return len(np.unique(said)) > 1 and len(np.unique(label)) > 1
    return True


# the rule


@dataclass
class Claim:
    """One comparison, computed here."""

    about: dict  # what the page calls its sides: task, method, layer, …
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    seeds: int = 0
    examples: int = 0
    ahead: int = 0
    collapsed: int = 0
    without: float = np.nan  # the difference without collapsed seeds
    p_without: float = np.nan
    mean: float = np.nan  # score of the first side
    spread: float = np.nan  # its standard deviation over seeds
    baseline: float = np.nan  # of the trivial predictor
    why: str = ""  # there is no p
    holm: float = np.nan
    verdict: str = "no claim"
    fragile: bool = False


def crossed(d):
    """Value, low, high and p of a matrix of differences, a row a seed, by the rule."""
    n, count = d.shape
    mean, total = d.mean(), ((d - d.mean()) ** 2).sum()
    of_seeds = count * ((d.mean(1) - mean) ** 2).sum()
    of_examples = n * ((d.mean(0) - mean) ** 2).sum()
    rest = max(total - of_seeds - of_examples, 0.0) / ((n - 1) * (count - 1)) / (n * count)
    v_seeds = max(of_seeds / (n - 1) / (n * count), 1 / (12 * n * count**2))
    v_examples = of_examples / (count - 1) / (n * count)
    both = max(v_seeds + v_examples - rest, v_seeds, v_examples)
    df = both / (v_seeds / (n - 1) + v_examples / (count - 1))
    found = []
    for variance, k in ((both, df), (v_seeds, n - 1)):
        half = stats.t.ppf(0.975, k) * np.sqrt(variance)
        found.append((half, 2 * stats.t.sf(abs(mean) / np.sqrt(variance), k)))
    half = max(h for h, _ in found)
    return mean, mean - half, mean + half, max(p for _, p in found)


def holm(p):
    """Step-down: the smallest times how many there are, the next times one less, never falling; nan does not count."""
    p = np.asarray(p, float)
    out, worst = np.full(len(p), np.nan), 0.0
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    for rank, i in enumerate(order):
        worst = max(worst, p[i] * (len(order) - rank))
        out[i] = min(1.0, worst)
    return out


def decide(claims):
    """Correct a family and put the words."""
    for claim, p in zip(claims, holm([c.p for c in claims])):
        claim.holm = p
        if np.isnan(p):
            continue
        claim.verdict = "undecided" if p >= 0.05 else "better" if claim.value > 0 else "worse"
    again = holm([c.p_without if c.collapsed else c.p for c in claims])
    for claim, p in zip(claims, again):
        stands = p < 0.05 and np.sign(claim.without) == np.sign(claim.value)
        claim.fragile = claim.verdict in ("better", "worse") and claim.collapsed > 0 and not stands
    return claims


# records and predictions


@dataclass
class Model:
    """One thing that was scored: a run, or a variant of one."""

    folder: Path
    record: dict
    variant: str
    seed: int
    metrics: dict
    probe: dict
    title: str = ""


@dataclass
class Study:
    """What lies in outputs/<study>: plan, records, and predictions when they are asked for."""

    folder: Path
    _columns: dict = field(default_factory=dict)
    _answers: dict = field(default_factory=dict)

    @cached_property
    def plan(self):
        return json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))

    @cached_property
    def models(self):
        found = []
        for path in sorted(self.folder.glob("runs/*/record.json")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:  # a page names it as broken
                continue
            if record["status"] != "done" or not record.get("task"):
                continue
            found += self._of(path.parent, record)
        return found

    def _of(self, folder, record):
        title = self.plan.get("titles", {}).get(record.get("step"), str(record.get("step")))
        several = record.get("variants")
        if not several:
            lora = record["parameters"].get("lora")
            variant = f"LoRA, rank {lora}" if lora else ""
            return [
                Model(
                    folder,
                    record,
                    "",
                    record["seed"],
                    record["metrics"],
                    {},
                    title + (f": {variant}" if variant else ""),
                )
            ]
        return [
            Model(
                folder,
                record,
                v["variant"],
                v.get("seed", record["seed"]),
                v["metrics"],
                v.get("probe") or {},
                f"{title}: {v['variant']}",
            )
            for v in several
        ]

    def runs(self, **wanted):
        """seed -> model, of those that have these properties; an ambiguous one is an error."""
        found = {}
        for m in self.models:
            if any(getattr(self, f"_{k}")(m) != v for k, v in wanted.items()):
                continue
            if m.seed in found:
                raise LookupError(f"{wanted}: {found[m.seed].folder.name} and {m.folder.name} have the same seed")
            found[m.seed] = m
        if not found:
            raise LookupError(f"no run with {wanted}")
        return found

    def _task(self, m):
        return TASKS[m.record["task"]][0] if m.record["task"] in TASKS else m.record["task"]

    def _method(self, m):
        return m.title

    def _encoder(self, m):
        return (m.record.get("encoder") or "").rsplit("/", 1)[-1]

    def _side(self, m):
        return m.record.get("side")

    def _epoch(self, m):
        return m.record.get("epoch")

    def _layer(self, m):
        return m.probe.get("layer")

    def _through(self, m):
        return m.probe.get("through")

    def _strategy(self, m):
        return (m.record.get("subset") or {}).get("strategy")

    def _arm(self, m):
        return {"steps": "fixed steps"}.get((m.record.get("subset") or {}).get("arm"), "epochs")

    def _frozen(self, m):
        n = int(m.record["parameters"].get("freeze") or 0)
        return {0: "full", -1: "encoder", -2: "embeddings"}.get(n, f"first {n} blocks")

    def _budget(self, m):
        share = m.record["parameters"].get("data_pct") or (m.record.get("subset") or {}).get("fraction")
        return f"{100 * share:g} %" if share else None

    def _kind(self, m):
        return KINDS.get(m.record["experiment"], m.title)

    def _table(self, folder):
        """The columns of a run's predictions, read once."""
        if folder not in self._columns:
            names = pq.read_schema(folder / "predictions.parquet").names
            wanted = ("split", "example_id", "label", "prediction", "variant", "seed", "exact_match", "answer_f1")
            self._columns[folder] = pq.read_table(
                folder / "predictions.parquet", columns=[n for n in wanted if n in names]
            )
        return self._columns[folder]

    def rows(self, m, split):
        """Columns of a model on a split, in the order of the example ids."""
        key = (m.folder, m.variant, m.seed, split)
        if key in self._answers:
            return self._answers[key]
        table = self._table(m.folder)
        keep = pc.equal(table["split"], split)
        if "variant" in table.column_names:
            keep = pc.and_(keep, pc.equal(table["variant"], m.variant))
        if "seed" in table.column_names:
            keep = pc.and_(keep, pc.equal(table["seed"], m.seed))
        table = table.filter(keep)
        if not len(table):
            raise LookupError(f"{m.folder.name} has no predictions of {split}")
        ids = np.array(table["example_id"].to_pylist())
        order = np.argsort(ids, kind="stable")
        columns = {
            n: table[n].to_numpy()[order]
            for n in table.column_names
            if n not in ("split", "example_id", "variant", "seed")
        }
        self._answers[key] = columns | {"id": ids[order]}
        return self._answers[key]

    def scored(self, m, split, metric):
        """Answers and labels as the metric takes them."""
        rows = self.rows(m, split)
        if metric in FORMULAS:
            return rows["prediction"], rows["label"]
        has = rows["label"] > 0
        counts = has if metric.startswith("has_answer") else np.ones(len(has), bool)
        own = rows["exact_match" if metric.endswith("exact_match") else "answer_f1"]
        return own.astype(float), counts.astype(float)

    def contributions(self, m, split, metric):
        key = (m.folder, m.variant, m.seed, split, metric)
        if key not in self._answers:
            said, label = self.scored(m, split, metric)
            flat = not defined(metric, said, label)
            self._answers[key] = np.zeros(len(label)) if flat else contributions(metric, said, label)
        return self._answers[key]

    def trivial(self, m, split, metric):
        """Contributions of the constant answer that has the trivial score of the record."""
        said, label = self.scored(m, split, metric)
        if metric not in FORMULAS:
            return (1 - self.rows(m, split)["label"]).astype(float) * (label > 0)
        if metric in ("pearson", "spearman", "matthews"):
            return np.zeros(len(label))
        score = m.record["baselines"][split][metric]
        near = min(np.unique(label), key=lambda c: abs((label == c).mean() - score)) if metric == "accuracy" else None
        if near is None or abs((label == near).mean() - score) > 1e-9:
            raise LookupError(f"{m.folder.name}: no constant scores {score}")
        return (label == near).astype(float)

    def collapsed(self, m, split):
        """Whether a model answers always the same, or like chance."""
        rows = self.rows(m, split)
        said, label = rows["prediction"], rows["label"]
        losses = [] if m.variant else [row["loss"] for row in m.record.get("history") or [] if "loss" in row]
        if losses and not np.isfinite(np.nan if losses[-1] is None else losses[-1]):
            return True
        share = lambda x: np.unique(x, return_counts=True)[1].max() / len(x)
        if "answer_f1" in rows:
            has = label == 1
            silent = has.mean() > 0.01 and (said == 0).mean() >= 0.99
            return bool(silent or (has.any() and rows["answer_f1"][has].max() == 0))
        if "pearson" in m.metrics[split]:
            if label.std() == 0:
                return False
            if said.std() < 0.01 * label.std():
                return True
            return abs(np.corrcoef(said, label)[0, 1]) < 0.05
        if share(label) >= 0.99:
            return False
        if share(said) >= 0.99:
            return True
        moments, value = _matthews(said, label)
        return abs(value(moments.mean(0))) < 0.005

    def first_split(self, m):
        return next(s for s in m.metrics if s != "selection")

    def compare(self, about, ours, theirs, split, metric, fallen_on=None):
        """The comparison of two sides (seed -> model), or of one with the trivial predictor where `theirs` is None."""
        claim, d, first = Claim(about), {}, None
        for seed in sorted(set(ours) & set(theirs if theirs is not None else ours)):
            rows = self.rows(ours[seed], split)
            if theirs is not None:
                other = self.rows(theirs[seed], split)
                if not (np.array_equal(rows["id"], other["id"]) and np.array_equal(rows["label"], other["label"])):
                    continue
            if first is not None and not np.array_equal(first, rows["id"]):
                continue
            first = rows["id"]
            base = (
                self.trivial(ours[seed], split, metric)
                if theirs is None
                else self.contributions(theirs[seed], split, metric)
            )
            d[seed] = self.contributions(ours[seed], split, metric) - base
        sides = [ours] if theirs is None else [ours, theirs]
        scores = [self.contributions(m, split, metric).mean() for m in ours.values()]
        claim.mean, claim.spread = np.mean(scores), np.std(scores, ddof=1) if len(scores) > 1 else np.nan
        if theirs is None:
            claim.baseline = np.mean([self.trivial(m, split, metric).mean() for m in ours.values()])
        if not d:
            claim.why = "no seed in common"
            return claim
        claim.seeds, claim.examples = len(d), len(first)
        claim.ahead = sum(x.mean() > 1e-12 for x in d.values())
        claim.value = np.mean([x.mean() for x in d.values()])
        fallen = {
            s
            for side in sides
            for s, m in side.items()
            if s in d and self.collapsed(m, fallen_on or self.first_split(m))
        }
        claim.collapsed = len(fallen)
        if len(d) == 1:
            claim.why = "one seed"
        else:
            _, claim.low, claim.high, claim.p = crossed(np.stack(list(d.values())))
        rest = [x for s, x in d.items() if s not in fallen]
        if fallen and rest:
            claim.without = np.mean([x.mean() for x in rest])
        if fallen and len(rest) > 1:
            claim.p_without = crossed(np.stack(rest))[3]
        return claim


def minus(text):
    return float(re.sub(r",", "", text).replace("−", "-").replace("+", ""))
