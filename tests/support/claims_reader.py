"""Every sentence and cell of a report that claims a difference, held against the predictions.

One with a word that claims must be understood by a reader, which computes the comparison again;
one that none of them understands is a fault, too.
"""

import re

import numpy as np
from claims_by_hand import METRICS, Claim, Study, decide
from claims_in_pages import (
    CODES,
    ENDS,
    HEADLINE,
    LANGUAGES,
    RANDOM,
    SILENT,
    TRIVIAL,
    WORD,
    Table,
    Wrong,
    describe,
    equal,
    is_claims,
    same,
    same_p,
    same_score,
    sentences,
    words,
)
from claims_in_sentences import DEFINITIONS, SENTENCES


def name_of(row):
    """What a row of a table compares, and which runs these are: (about, ours, theirs or None)."""
    task = row.get("Task", "MNLI")
    if "Language" in row:
        ours = {"method": row["Method"]} | ({"encoder": row["Encoder"]} if "Encoder" in row else {})
        return {"language": row["Language"], **ours, "base": TRIVIAL}, ours, None
    if "Layer" in row:
        side, _, other = row["Side"].partition(" − ")
        encoder = {"encoder": row["Encoder"]} if "Encoder" in row else {}
        probe = {"task": task, **encoder, "side": side, "layer": int(row["Layer"])}
        ours, about = probe | {"through": "layer", "epoch": None}, probe | {"metric": row["Metric"]}
        return about | {"base": other or TRIVIAL}, ours, ours | {"side": other} if other else None
    if "Strategy" in row:
        ours = {
            "task": task,
            "strategy": row["Strategy"],
            "budget": row["Budget"],
            "arm": row.get("Training", "epochs"),
            "frozen": row.get("Frozen", "full"),
        }
        about = ours | {"metric": row["Metric"], "base": TRIVIAL if "Trivial" in row else RANDOM}
        return about, ours, None if "Trivial" in row else ours | {"strategy": RANDOM}
    base = row.get("Against") or next(c.removeprefix("Against ") for c in row if c.startswith("Against "))
    about = {"task": task, "method": row["Method"], "base": base}
    return about, {"task": task, "method": row["Method"]}, {"task": task, "method": base}


def alone(ours, theirs):
    """Seeds that one side has alone, as a remark names them."""
    seeds = sorted(set(ours) ^ set(theirs)) if theirs is not None and set(ours) & set(theirs) else []
    return f"of one side alone (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds else ""


UNREAD = (
    Wrong,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    StopIteration,
)  # what a text ends in that says something else


class Reader:
    """Reads one page of one study and keeps what it has checked and what is wrong."""

    def __init__(self, study: Study, parts: list, cache: dict):
        self.study, self.parts, self.cache = study, parts, cache
        self.claims, self.checked, self.faults, self.wrong = [], [], [], []  # wrong: the texts that the faults are of
        self.last, self.told = None, []  # table and family of which the text spoke last

    def fault(self, text, why):
        self.wrong.append(text)
        self.faults.append(f"{self.study.folder.name}: {why}: {text}")

    def attempt(self, text, read):
        try:
            if read() is False:
                return self.fault(text, "a claim that nothing here can attribute")
        except UNREAD as e:
            return self.fault(text, str(e))
        self.checked.append(text)

    # computing

    def seeds(self, split, **wanted):
        found = {s: m for s, m in self.study.runs(**wanted).items() if split in m.metrics}
        if not found:
            raise LookupError(f"no run with {wanted} was scored on {split}")
        return found

    def claim(self, row):
        about, ours, theirs = name_of(row)
        metric, split = HEADLINE[row.get("Task", "MNLI")]
        if "Language" in row:
            split = f"test/{CODES[row['Language']]}"
            models = self.study.runs(**ours).values()
            (about["encoder"],) = {self.study._encoder(m) for m in models}  # has no column where there is one
            split = split if any(split in m.metrics for m in models) else "test"  # tuned on that language alone
        if row.get("Metric") == "HANS accuracy":
            split = "hans"
        if "Layer" in row:
            models = self.study.runs(**ours).values()
            (about["encoder"],) = {self.study._encoder(m) for m in models}  # has no column where there is one
        metric = METRICS.get(row["Metric"]) if "Metric" in row else metric
        ours = self.seeds(split, **ours)
        theirs = self.seeds(split, **theirs) if theirs else None
        if metric is None:
            return self.unscored(about, ours, theirs, split)
        found = self.study.compare(about, ours, theirs, split, metric, split if "Language" in row else None)
        found.about["alone"] = alone(ours, theirs)
        return found

    def unscored(self, about, ours, theirs, split):
        """F1 where silence is not allowed: records have it, predictions do not."""
        mean = lambda side: np.mean([m.metrics[split]["forced_f1"] for m in side.values()])
        why = "forced_f1 is not computed from predictions"
        return Claim(about | {"alone": ""}, mean(ours) - mean(theirs), why=why, mean=mean(ours))

    def family(self, table):
        """The comparisons of a table, decided together; once for all pages that have the same rows."""
        names = [str(name_of(row)[0]) for row in table.rows]
        if twice := {n for n in names if names.count(n) > 1}:
            raise Wrong(f"two rows are of {twice}")
        key = str(names)
        if key not in self.cache:
            self.cache[key] = decide([self.claim(row) for row in table.rows])
        return self.cache[key]

    def find(self, **about):
        found = [c for c in self.claims if all(c.about.get(k) == v for k, v in about.items())]
        if len(found) != 1:
            raise LookupError(f"{len(found)} comparisons of {about}")
        return found[0]

    def some(self, **about):
        found = [c for c in self.claims if all(c.about.get(k) == v for k, v in about.items())]
        if not found:
            raise LookupError(f"no comparison of {about}")
        return found

    # tables

    def read_table(self, table):
        self.last = table
        if is_claims(table):
            try:
                table.claims = self.family(table)
            except UNREAD as e:
                return self.fault(table.heading, f"a table of claims that nothing here can attribute, {e}")
            self.claims += table.claims
            for row, claim in zip(table.rows, table.claims):
                self.attempt(" | ".join(row.values()), lambda: self.read_row(row, claim))

    def read_row(self, row, claim):
        name = describe(claim)
        size = next((row[c] for c in row if c == "Difference" or c.startswith("Against ")), None)
        if size == "":
            equal("", "" if np.isnan(claim.value) else "a difference", name)
        else:
            same(size, claim.value, f"{name}: the difference")
        interval = next(row[c] for c in ("95 % interval", "95 %") if c in row)
        if np.isnan(claim.low):
            equal(interval, "", f"{name}: the interval")
        else:
            low, high = re.fullmatch(ENDS, interval).groups()
            same(low, claim.low, f"{name}: the lower end")
            same(high, claim.high, f"{name}: the upper end")
        for column, own in (("p", claim.p), ("p (Holm)", claim.holm)):
            if column in row:
                same_p(row[column], own, f"{name}: {column}")
        equal(row["Verdict"], words(claim), f"{name}: the verdict")
        ahead = f"{claim.ahead} of {claim.seeds}" if claim.seeds else ""
        told = {
            "Seeds ahead": ahead,
            "Ahead": ahead and f"{ahead} seeds",
            "Seeds": str(claim.seeds),
            "Examples": f"{claim.examples:,}" if claim.examples else "",
            "Scored examples": f"{claim.examples:,}" if claim.examples else "",
        }
        for column, own in told.items():
            if column in row:
                equal(row[column], own, f"{name}: {column}")
        left = next((row[c] for c in ("Remark", "Left out") if c in row), claim.about["alone"])
        if not claim.why.startswith("forced"):
            equal(left.removeprefix("left out: "), claim.about["alone"], f"{name}: what is left out")
        if row.get("Score"):
            same_score(row["Score"], claim)
        if "Collapsed" in row:
            equal(re.match(r"\d+|none", row["Collapsed"])[0], str(claim.collapsed or "none"), f"{name}: collapsed")
        if row.get("Trivial"):
            same(row["Trivial"], claim.baseline, f"{name}: the trivial score")

    def read_marks(self, table):
        """Cells of a main table, whose marks say better or worse."""
        for row in table.rows:
            for column, text in row.items():
                about = self.marked(row, column, table)
                if about is None:
                    if WORD.search(text) and column not in SILENT:
                        self.attempt(text, lambda: False)
                    continue
                self.attempt(
                    f"{' | '.join(list(row.values())[:4])} | {column}: {text}", lambda: self.read_mark(text, about)
                )

    def marked(self, row, column, table):
        """What a cell of a main table compares; None where it compares nothing."""
        if is_claims(table):
            return None
        if "Mode that ran" in table.columns and (column == "− full" or "±" in row[column]):
            return {"task": row["Task"], "method": row["Method"]} if row["− full"] else None
        if column in LANGUAGES and row.get("Method") != "Trivial" and "±" in row[column]:
            return {"language": LANGUAGES[column], "method": row["Method"], "encoder": row["Encoder"]}
        if "Strategy" in table.columns and "Trivial" in table.columns and column.endswith(" %") and row[column]:
            about = {
                "task": row["Task"],
                "strategy": row["Strategy"],
                "budget": column,
                "arm": row.get("Training", "epochs"),
                "frozen": row.get("Frozen", "full"),
                "base": RANDOM,
                "metric": "Accuracy (matched)",
            }
            return about if row["Strategy"] != RANDOM else about | {"base": TRIVIAL}
        return None

    def read_mark(self, text, about):
        claim = self.find(**about)
        if "±" not in text:
            return same(text, claim.value, describe(claim))
        same_score(text, claim)
        marked = claim if about.get("strategy") != RANDOM else Claim({})
        own = {"better": " ▲", "worse": " ▼"}.get(marked.verdict, "") + " fragile" * marked.fragile
        equal(
            re.sub(r" ?\(.*\)$", "", text.split("±")[1].strip().partition(" ")[2]),
            own.strip(),
            f"{describe(claim)}: the mark",
        )
        if fallen := re.search(r"\((?:all )?(\d+)(?: of \d+)? collapsed\)", text):
            equal(int(fallen[1]), claim.collapsed, f"{describe(claim)}: the runs that collapsed")

    # the page

    def read(self):
        for part in self.parts:
            if isinstance(part, Table):
                self.read_table(part)
        for part in self.parts:
            if isinstance(part, Table):
                self.last = part
                if not is_claims(part):
                    self.read_marks(part)
                continue
            for text in sentences(part):
                if WORD.search(text) and not any(re.fullmatch(d, text) for d in DEFINITIONS):
                    self.attempt(text, lambda: self.read_sentence(text))
        return self

    def read_sentence(self, text):
        for pattern, read in SENTENCES:
            if found := re.fullmatch(pattern, text):
                return read(self, *found.groups())
        return False


def has_marks(table):
    """Whether cells of a main table are marked as better or worse."""
    columns = set(table.columns)
    return "Mode that ran" in columns or len(columns & set(LANGUAGES)) > 1 or {"Strategy", "Trivial"} <= columns


def claims_of(parts):
    """The sentences and rows of a page that claim something, as text."""
    found = []
    for part in parts:
        if isinstance(part, Table):
            marked = is_claims(part) or has_marks(part)
            found += [
                " | ".join(row.values()) for row in part.rows if marked or re.search(r"[▲▼]", " ".join(row.values()))
            ]
        else:
            found += [t for t in sentences(part) if WORD.search(t) and not any(re.fullmatch(d, t) for d in DEFINITIONS)]
    return found
