#!/usr/bin/env bash
# deepsig's multi_aso never claims anything between two models, and its Bonferroni step fades as comparisons are added.
#
# Versions: deepsig 1.2.8, numpy 2.4.6, scipy 1.17.1, pandas 3.1.1, joblib 1.6.0. Almost stochastic order: aso gives
# eps_min, and a value below 0.5 (its documentation advises 0.2) is read as "the first model is better".
#
# Guess from the documentation, before the run: for two models multi_aso gives what aso gives; more comparisons give a
# larger eps_min, that of confidence level 1 - 0.05 / count; with equal methods and 3 seeds about 7 % of eps_min fall
# below 0.2 and 10 % below 0.5.
#
# Behaviour.
#  - The step adds (1 - level) / count to the level, so that 0.95 becomes 0.975 for two comparisons (right), but 0.967
#    for three and 0.951 for 45, where Bonferroni means 0.983 and 0.999. The strictest value is that of two comparisons.
#  - aso leaves the level alone for one comparison; multi_aso does not: for two models the level becomes 1, its quantile
#    is infinite, and eps_min is 1 in both directions. Where every score of one model lies above every score of the
#    other it is NaN (no variance times infinity), and NaN < 0.2 is False too; numpy's warning about a multiplication is
#    the only sign. A third model, even a hopeless one, brings the claim back.
#  - 3 seeds: two equal methods separate wholly, in one given direction, with probability 1/20, and then eps_min is 0 at
#    every level: no correction can take that claim away. With the overlaps counted in, one direction alone claims in
#    about one comparison of seven at 0.2 and one of four at 0.5.
#
# Output seen (the first and the second model over the other; bounds from few resamples so that the script stays short):
#   aso, full over near and back: 0.31 1.00
#   multi_aso of these two: 1.00 1.00
#   the same two, use_bonferroni=False: 0.31 1.00
#   the same two with a third model: 0.34 1.00
#   multi_aso of two that never overlap: nan nan
#   num_comparisons 1, 2, 3, 6, 10, 45: 0.307 0.366 0.342 0.323 0.316 0.309
#   confidence_level 1 - 0.05 / count: 0.307 0.366 0.397 0.447 0.481 0.571
#   equal methods, 3 seeds: below 0.2, below 0.5, exactly 0: 14.0% 27.0% 5.0%
#   equal methods, 5 seeds: below 0.2, below 0.5, exactly 0: 6.0% 16.0% 0.0%
#
# Why it matters in an encoder lab: fine-tuning studies compare a few seeds of two methods, later of many. "No method
# is better" from a table of two is then a fact about the function, and a table of ten methods is not corrected in any
# way that counts, although a parameter named use_bonferroni=True says so. Correct by hand with confidence_level, use
# aso for pairs, and count what three seeds can separate by luck before any threshold is chosen.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check --no-compile \
    deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 joblib==1.6.0

cat > "$work/order.py" <<'PY'
import warnings

import numpy as np
from deepsig import aso, multi_aso

warnings.simplefilter("ignore")
QUICK = {"num_bootstrap_iterations": 100, "dt": 0.02, "show_progress": False, "seed": 0}
FULL = [0.80, 0.82, 0.83, 0.84, 0.86]
NEAR = [0.79, 0.80, 0.81, 0.825, 0.83]
FAR = [0.70, 0.71, 0.72, 0.73, 0.74]
problems = []


def say(what, seen, wanted):
    print(f"{what}: {seen}")
    if seen != wanted:
        problems.append(f"changed: {what}: expected {wanted}")


def both_ways(models, **options):
    values = multi_aso(models, **QUICK, **options)
    first, second = values[0, 1], values[1, 0]
    return f"{first:.2f} {second:.2f}"


say("aso, full over near and back", f"{aso(FULL, NEAR, **QUICK):.2f} {aso(NEAR, FULL, **QUICK):.2f}", "0.31 1.00")
say("multi_aso of these two", both_ways({"full": FULL, "near": NEAR}), "1.00 1.00")
say("the same two, use_bonferroni=False", both_ways({"full": FULL, "near": NEAR}, use_bonferroni=False), "0.31 1.00")
say("the same two with a third model", both_ways({"full": FULL, "near": NEAR, "far": FAR}), "0.34 1.00")
say("multi_aso of two that never overlap", both_ways({"full": FULL, "far": FAR}), "nan nan")

COUNTS = [1, 2, 3, 6, 10, 45]
given = " ".join(f"{aso(FULL, NEAR, num_comparisons=count, **QUICK):.3f}" for count in COUNTS)
true = " ".join(f"{aso(FULL, NEAR, confidence_level=1 - 0.05 / count, **QUICK):.3f}" for count in COUNTS)
say("num_comparisons 1, 2, 3, 6, 10, 45", given, "0.307 0.366 0.342 0.323 0.316 0.309")
say("confidence_level 1 - 0.05 / count", true, "0.307 0.366 0.397 0.447 0.481 0.571")

WANTED = {3: "14.0% 27.0% 5.0%", 5: "6.0% 16.0% 0.0%"}
for seeds, wanted in WANTED.items():
    rng = np.random.default_rng(0)
    bounds = []
    for number in range(100):
        first, second = rng.normal(size=(2, seeds))
        bounds.append(aso(first, second, num_bootstrap_iterations=50, dt=0.02, show_progress=False, seed=number))
    claims = [np.array(bounds) < 0.2, np.array(bounds) < 0.5, np.array(bounds) == 0]
    shares = " ".join(f"{claim.mean():.1%}" for claim in claims)
    say(f"equal methods, {seeds} seeds: below 0.2, below 0.5, exactly 0", shares, wanted)
raise SystemExit("\n".join(problems) or 0)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/order.py"
