#!/usr/bin/env bash
# One in fifty short commit hashes written by PyYAML comes back from a YAML 1.2 reader as a number, some even as inf.
#
# Versions: PyYAML 6.0.4, ruamel.yaml 0.19.1, py-yaml12 0.2.0.
#
# Behaviour. Each writer quotes only those texts that its own reader would take for something else.
#  - PyYAML knows neither 12e5 nor 08 as numbers (its floats need a dot, its octals no 8 or 9), so it writes them bare;
#    both YAML 1.2 readers then give a float or an int, the same one each. Of random short hashes 2.1 % of seven
#    digits and 1.7 % of eight change so. Leading zeros are lost, and an exponent of four digits makes inf: no error.
#  - The two "YAML 1.2" libraries are not one language. py-yaml12 keeps to the core schema and writes 2026-11-30, 1_000
#    and 0b11 bare; ruamel.yaml, in its 1.2 mode, reads them as a date, 1000 and 3. PyYAML agrees with ruamel there.
#  - Whole numbers above 2**63-1 become floats in py-yaml12 (the last digits are gone; hexadecimal ones become texts),
#    though it refuses to write such a number; !!int "3" stays a text in it, while a bare !!float 3 becomes 3.0.
# What ruamel writes, both 1.2 readers read right in the rows below; PyYAML misreads `no` and 1:20 from it.
#
# Output seen:
#   hashes of 7 digits: 421 of 20000 changed (369 float, 52 int), the 1.2 readers agree
#   hashes of 8 digits: 335 of 20000 changed (301 float, 34 int), the 1.2 readers agree
#   5453e720 -> inf, 0202861 -> 202861
#   text written bare, then read: PyYAML | ruamel | py-yaml12
#   PyYAML    '12e5'       same | 1200000.0 | 1200000.0
#   PyYAML    '08'         same | 8 | 8
#   PyYAML    'no'         same | same | same
#   ruamel    'no'         False | same | same
#   ruamel    '1:20'       80 | same | same
#   ruamel    '2026-11-30' same | same | same
#   py-yaml12 '2026-11-30' datetime.date(2026, 11, 30) | datetime.date(2026, 11, 30) | same
#   py-yaml12 '1_000'      1000 | 1000 | same
#   py-yaml12 '0b11'       3 | 3 | same
#   py-yaml12 'no'         False | same | same
#   py-yaml12 reads 2**63-1 as int, 2**63 as float, 0xFFFFFFFFFFFFFFFF as str, !!int "3" as str, !!float 3 as float
#   py-yaml12 writes 2**63: ValueError
#
# Why it matters in an encoder lab: records name the commit, the run and the seed. A lab that moves its readers to
# YAML 1.2 (so that 0100 is a hundred and `no` a word) meanwhile reads files that other tools wrote with PyYAML: one
# commit in fifty is no longer a text, and a check "same commit" fails or, with inf == inf, wrongly holds. 64-bit seeds
# and fingerprints lose their last digits in one library and not in the other. Quote such texts, or write JSON.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q -q --disable-pip-version-check \
    PyYAML==6.0.4 ruamel.yaml==0.19.1 py-yaml12==0.2.0

cat > "$work/hashes.py" <<'PY'
import io
import random
from collections import Counter

import yaml
import yaml12
from ruamel.yaml import YAML

ruamel = YAML(typ="safe", pure=True)


def ruamel_write(value):
    file = io.StringIO()
    YAML(typ="safe", pure=True).dump(value, file)
    return file.getvalue()


READ = {"PyYAML": yaml.safe_load, "ruamel": ruamel.load, "py-yaml12": yaml12.parse_yaml}
WRITE = {"PyYAML": yaml.safe_dump, "ruamel": ruamel_write, "py-yaml12": lambda value: yaml12.format_yaml(value) + "\n"}
problems = []


def expect(what, seen, wanted):
    if seen != wanted:
        problems.append(f"changed: {what}: {seen!r}, expected {wanted!r}")


def read_all(text):
    return {name: read(text)["x"] for name, read in READ.items()}


for digits, wanted in [(7, {"float": 369, "int": 52}), (8, {"float": 301, "int": 34})]:
    rng = random.Random(digits)
    kinds = Counter()
    agree = True
    for _ in range(20_000):
        commit = f"{rng.getrandbits(4 * digits):0{digits}x}"
        line = yaml.safe_dump({"x": commit})
        value = yaml12.parse_yaml(line)["x"]
        if not isinstance(value, str):
            kinds[type(value).__name__] += 1
            everybody = read_all(line)
            agree &= everybody["ruamel"] == value and type(everybody["ruamel"]) is type(value)
            expect(commit, everybody["PyYAML"], commit)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"hashes of {digits} digits: {sum(kinds.values())} of 20000 changed ({counts}),",
          "the 1.2 readers agree" if agree else "the 1.2 readers differ")
    expect(f"{digits} digits", (dict(kinds), agree), (wanted, True))

pairs = {commit: read_all(yaml.safe_dump({"x": commit}))["py-yaml12"] for commit in ["5453e720", "0202861"]}
print(", ".join(f"{commit} -> {value}" for commit, value in pairs.items()))
expect("inf and zeros", list(pairs.values()), [float("inf"), 202861])

print("text written bare, then read:", " | ".join(READ))
ROWS = [
    ("PyYAML", "12e5", "same | 1200000.0 | 1200000.0"),
    ("PyYAML", "08", "same | 8 | 8"),
    ("PyYAML", "no", "same | same | same"),
    ("ruamel", "no", "False | same | same"),
    ("ruamel", "1:20", "80 | same | same"),
    ("ruamel", "2026-11-30", "same | same | same"),
    ("py-yaml12", "2026-11-30", "datetime.date(2026, 11, 30) | datetime.date(2026, 11, 30) | same"),
    ("py-yaml12", "1_000", "1000 | 1000 | same"),
    ("py-yaml12", "0b11", "3 | 3 | same"),
    ("py-yaml12", "no", "False | same | same"),
]
for writer, text, wanted in ROWS:
    values = read_all(WRITE[writer]({"x": text})).values()
    seen = " | ".join("same" if value == text else repr(value) for value in values)
    print(f"{writer:9} {text!r:12} {seen}")
    expect(f"{writer} {text}", seen, wanted)

NUMBERS = {"2**63-1": str(2**63 - 1), "2**63": str(2**63), "0xFFFFFFFFFFFFFFFF": "0xFFFFFFFFFFFFFFFF",
           '!!int "3"': '!!int "3"', "!!float 3": "!!float 3"}
kinds = {name: type(yaml12.parse_yaml(f"x: {text}\n")["x"]).__name__ for name, text in NUMBERS.items()}
print("py-yaml12 reads", ", ".join(f"{name} as {kind}" for name, kind in kinds.items()))
expect("numbers", list(kinds.values()), ["int", "float", "str", "str", "float"])
try:
    yaml12.format_yaml({"x": 2**63})
    refused = "nothing"
except ValueError as error:
    refused = type(error).__name__
print("py-yaml12 writes 2**63:", refused)
expect("2**63", refused, "ValueError")

raise SystemExit("\n".join(problems) or 0)
PY
"$work/venv/bin/python" "$work/hashes.py"
