#!/usr/bin/env bash
# scikit-posthocs: Quade's test with dist="normal" finds a difference in two of five tables where there is none.
#
# Versions: scikit-posthocs 0.17.1, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1, statsmodels 0.15.0.
#
# Tables of scores, tasks in rows and methods in columns, all methods equally good. Counted are the tables with any pair
# of methods below 0.05 after Holm's correction (a pair survives it if the smallest p times the number of pairs does).
#
# Guess before the run: each test of the family makes a claim in 2 to 5 % of such tables, the normal approximation of
# Quade's test like its t form, Tukey's "single-step" like Holm.
#
# Behaviour.
#  - dist="normal" claims in 36 to 46 % of the tables, WITH the correction; its t form in 1.5 to 4.5 %. The standard
#    deviation it divides by holds the number of cells of the table where the number of tasks belongs, and is less than
#    0.71 of the right one (0.59 with three methods). More tasks do not help: the factor stays.
#    One table of three methods and five tasks: p = 0.037, while 25 % of all orders are as extreme or more.
#  - p_adjust="single-step" of Conover's test takes the studentized range with infinite degrees of freedom, though its
#    variance comes from the table: 17 % with three tasks, 7.5 % still with ten. Holm on the same test: 7 and 3.5 %.
#  - Nemenyi's test and Quade's t form keep what they promise down to three tasks.
#
# Output seen (the exact variance is this script's own: the normal form with the variance under equal orders):
#   first against last, quade t: 0.256
#   first against last, quade normal: 0.037
#   first against last, exact variance: 0.215
#   first against last, all 7776 orders: 0.250
#   tables with a claim: quade t, quade normal, exact variance, conover, conover single-step, nemenyi
#   3 methods, 5 tasks (divisor 0.59 of the right one): 4.5% 46.0% 1.0% 4.5% 12.5% 4.5%
#   5 methods, 3 tasks (divisor 0.67 of the right one): 1.5% 36.5% 0.0% 7.0% 17.0% 2.0%
#   5 methods, 10 tasks (divisor 0.64 of the right one): 2.0% 36.5% 2.0% 3.5% 7.5% 3.5%
#   10 methods, 10 tasks (divisor 0.68 of the right one): 2.0% 43.5% 1.5% 3.0% 7.5% 4.0%
#
# Why it matters in an encoder lab: fine-tuning methods are compared over a handful of tasks, and a test that weighs the
# tasks by how far the methods lie apart on them is tempting there. Its normal form, one parameter away, turns noise
# into a claim in two of five comparisons, and no correction for the number of pairs saves it. Take the t form, or count
# all orders: for five tasks and three methods they are few.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check --no-compile \
    scikit-posthocs==0.17.1 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 statsmodels==0.15.0

cat > "$work/quade.py" <<'PY'
import itertools

import numpy as np
import scikit_posthocs as posthocs
from scipy import stats

problems = []


def say(what, seen, wanted):
    print(f"{what}: {seen}")
    if seen != wanted:
        problems.append(f"changed: {what}: expected {wanted}")


def weighted_ranks(scores):
    """Give each method's ranks, each task weighted by the rank of its range."""
    weight = stats.rankdata(np.ptp(scores, axis=1))
    return stats.rankdata(scores, axis=1) * weight[:, None]


def deviation(tasks, methods):
    """Give the standard deviation of a difference of two rank sums when all orders are equally likely."""
    squares = tasks * (tasks + 1) * (2 * tasks + 1) / 6
    return np.sqrt(squares * methods * (methods + 1) / 6)


def by_its_variance(scores):
    sums = weighted_ranks(scores).sum(axis=0)
    z = np.subtract.outer(sums, sums) / deviation(*scores.shape)
    return 2 * stats.norm.sf(abs(z))


def by_enumeration(scores):
    """Give the exact p of the first method against the last one: all orders of all tasks."""
    weight = stats.rankdata(np.ptp(scores, axis=1))
    orders = list(itertools.permutations(range(scores.shape[1])))
    gaps = np.array([order[0] - order[-1] for order in orders])
    seen = weighted_ranks(scores).sum(axis=0)
    totals = sum(np.meshgrid(*[gaps * w for w in weight], indexing="ij"))
    return np.mean(abs(totals) >= abs(seen[0] - seen[-1]) - 1e-9)


TESTS = {
    "quade t": (posthocs.posthoc_quade, {}, True),
    "quade normal": (posthocs.posthoc_quade, {"dist": "normal"}, True),
    "exact variance": (by_its_variance, {}, True),
    "conover": (posthocs.posthoc_conover_friedman, {}, True),
    "conover single-step": (posthocs.posthoc_conover_friedman, {"p_adjust": "single-step"}, False),
    "nemenyi": (posthocs.posthoc_nemenyi_friedman, {}, False),
}
# Three methods on five tasks, accuracies.
SCORES = np.array([
    [0.801, 0.809, 0.812],
    [0.702, 0.711, 0.731],
    [0.655, 0.640, 0.671],
    [0.903, 0.899, 0.901],
    [0.553, 0.561, 0.548],
])
WANTED = {"quade t": "0.256", "quade normal": "0.037", "exact variance": "0.215"}
table = {name: np.asarray(test(SCORES, **options))[0, -1] for name, (test, options, _) in TESTS.items()}
for name, wanted in WANTED.items():
    say(f"first against last, {name}", f"{table[name]:.3f}", wanted)
say("first against last, all 7776 orders", f"{by_enumeration(SCORES):.3f}", "0.250")

SETS = 200
WANTED = {
    (3, 5): "4.5% 46.0% 1.0% 4.5% 12.5% 4.5%",
    (5, 3): "1.5% 36.5% 0.0% 7.0% 17.0% 2.0%",
    (5, 10): "2.0% 36.5% 2.0% 3.5% 7.5% 3.5%",
    (10, 10): "2.0% 43.5% 1.5% 3.0% 7.5% 4.0%",
}
print("tables with a claim:", ", ".join(TESTS))
for (methods, tasks), wanted in WANTED.items():
    rng = np.random.default_rng(1)
    counts = dict.fromkeys(TESTS, 0)
    first, last = np.triu_indices(methods, 1)
    for _ in range(SETS):
        scores = rng.normal(size=(tasks, methods))
        for name, (test, options, raw) in TESTS.items():
            p = np.asarray(test(scores, **options))[first, last]
            counts[name] += p.min() * (len(p) if raw else 1) < 0.05
    cells = methods * tasks
    divisor = (methods - 1) / 2 * (2 * cells + 1) * (tasks + 1) * tasks / ((2 * tasks + 1) * cells * (cells + 1))
    shares = " ".join(f"{count / SETS:.1%}" for count in counts.values())
    say(f"{methods} methods, {tasks} tasks (divisor {np.sqrt(divisor):.2f} of the right one)", shares, wanted)
raise SystemExit("\n".join(problems) or 0)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/quade.py"
