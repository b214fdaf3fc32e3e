"""Pages of reports as sentences and tables, and what it means that a printed number is the one of the predictions."""

import html.parser
import json
import re
from dataclasses import dataclass, field

import numpy as np
from claims_by_hand import TASKS, minus

NUMBER = r"[+−]?\d[\d,]*\.\d"
ENDS = rf"({NUMBER}) … ({NUMBER})"
FRAGILE = rf"(?:; fragile: without collapsed seeds ({NUMBER}|nothing left))?"
BY = rf"({NUMBER}) points \({ENDS}{FRAGILE}((?:; [^()]*)?)\)"  # size, low, high, without, about
WORD = re.compile(
    r"\b(better|worse|undecided|claims?|claimed|fragile|chance|told from|beat\w*|outperform\w*|higher|lower|superior|"
    r"inferior|significant\w*|gains?|differs? by(?= [+−\d]))\b|[▲▼]",
    re.I,
)


# pages as sentences and tables


@dataclass
class Table:
    heading: str
    columns: list
    rows: list  # of dicts: column -> text
    claims: list = field(default_factory=list)


def clean(text):
    return re.sub(r"\s+", " ", text.replace("\u00a0", " ").replace("**", "")).strip()


def cells(line):
    return [clean(c.replace("\\|", "|")) for c in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def read_markdown(text):
    """The paragraphs, bullets and tables of a Markdown page, in order."""
    parts, heading, lines = [], "", text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("#"):
            heading = clean(line.lstrip("# "))
        elif line.startswith("|"):
            if parts and isinstance(parts[-1], Table) and parts[-1].columns and lines[i - 1].startswith("|"):
                if not re.fullmatch(r"\|[-:|\s]+", line):
                    parts[-1].rows.append(dict(zip(parts[-1].columns, cells(line))))
            else:
                parts.append(Table(heading, cells(line), []))
        elif line.strip() and not line.startswith(("```", "<!--")):
            parts.append(clean(re.sub(r"^- ", "", line)))
    return parts


class _Html(html.parser.HTMLParser):
    """The same of an HTML page."""

    def __init__(self):
        super().__init__()
        self.parts, self.heading, self.text, self.row, self.keep = [], "", "", None, True

    def handle_starttag(self, tag, attributes):
        if tag in ("style", "script", "pre", "title"):
            self.keep = False
        if tag in ("p", "li", "h1", "h2", "h3", "caption", "td", "th"):
            self.text = ""
        if tag == "table":
            self.parts.append(Table(self.heading, [], []))
        if tag == "tr":
            self.row = []

    def handle_data(self, data):
        if self.keep:
            self.text += data

    def handle_endtag(self, tag):
        if tag in ("style", "script", "pre", "title"):
            self.keep = True
        text = clean(self.text)
        if tag in ("h1", "h2", "h3"):
            self.heading = text
        elif tag in ("p", "li", "caption") and text:
            self.parts.append(text)
        elif tag in ("td", "th") and self.row is not None:
            self.row.append(text)
        elif tag == "tr" and self.row is not None:
            table = next(p for p in reversed(self.parts) if isinstance(p, Table))
            if table.columns:
                table.rows.append(dict(zip(table.columns, self.row)))
            else:
                table.columns = self.row
            self.row = None
        if tag in ("p", "li", "h1", "h2", "h3", "caption", "td", "th"):
            self.text = ""


def read_html(text):
    parser = _Html()
    parser.feed(text)
    return parser.parts


def read_notebook(text):
    """The outputs of an executed notebook."""
    parts = []
    for cell in json.loads(text)["cells"]:
        for out in cell.get("outputs", []):
            data = out.get("data", {})
            if "text/html" in data:
                parts += read_html("".join(data["text/html"]))
            elif "text/markdown" in data:
                parts += read_markdown("".join(data["text/markdown"]))
    return parts


READERS = {".md": read_markdown, ".html": read_html, ".ipynb": read_notebook}


def sentences(text):
    return re.split(r"(?<=\.) (?=\S)", text)


def clauses(text):
    """The parts between semicolons that stand in no brackets."""
    found, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == ";" and not depth:
            found.append("")
        else:
            found[-1] += c
    return [f.strip() for f in found]


# what is wrong


class Wrong(Exception):
    """A sentence or a cell that says something else than the predictions."""


def same(printed, own, what, scale=100, digits=1):
    if abs(minus(printed) - scale * own) > 0.5 * 10**-digits + 1e-6:
        raise Wrong(f"{what} is printed as {printed}, the predictions give {scale * own:.{digits + 2}f}")


def equal(printed, own, what):
    if printed != own:
        raise Wrong(f"{what} is printed as {printed!r}, the predictions give {own!r}")


def same_p(printed, own, what):
    if np.isnan(own):
        return equal(printed, "", what)
    if printed == "< 0.001" and own < 0.001 + 1e-9:
        return
    if printed in ("", "< 0.001") or abs(float(printed) - own) > 0.0005 + 1e-6:
        raise Wrong(f"{what} is printed as {printed!r}, the predictions give {own:.5f}")


def same_size(claim, size, low, high, without=None):
    """A difference in points with its interval: of what is decided the lead of the better side, else with its sign."""
    name, sign = describe(claim), 1
    if claim.verdict == "worse" and not size.startswith(("+", "−")):
        sign = -1
    if claim.verdict in ("undecided", "no claim") and not size.startswith(("+", "−")):
        raise Wrong(f"{name}: {size} without a sign")
    same(size, sign * claim.value, f"{name}: the difference")
    ends = (claim.low, claim.high) if sign > 0 else (-claim.high, -claim.low)
    if low is None:
        if not np.isnan(ends[0]):
            raise Wrong(f"{name}: the interval is missing")
    else:
        same(low, ends[0], f"{name}: the lower end")
        same(high, ends[1], f"{name}: the upper end")
    fragile(claim, without)


def same_score(text, claim):
    """A mean, with its standard deviation where there are several seeds."""
    mean, spread = re.match(rf"({NUMBER})(?: ± ({NUMBER}))?", text).groups()
    same(mean, claim.mean, f"{describe(claim)}: the score")
    if spread:
        same(spread, claim.spread, f"{describe(claim)}: the standard deviation")


def fragile(claim, without):
    if bool(without) != claim.fragile:
        raise Wrong(f"{describe(claim)} is {'' if claim.fragile else 'not '}fragile")
    if without and without != "nothing left":
        same(without, claim.without, f"{describe(claim)}: without collapsed seeds")


def describe(claim):
    return ", ".join(str(v) for v in claim.about.values() if v not in ("", None))


def words(claim):
    if claim.verdict == "no claim":
        return f"no claim: {claim.why}"
    if not claim.fragile:
        return claim.verdict
    without = f"{100 * claim.without:+.1f}".replace("-", "−") if not np.isnan(claim.without) else "nothing left"
    return f"{claim.verdict}, fragile: without collapsed seeds {without}"


def joined(words, last="and"):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def counts(claims, what=""):
    told = {"no claim": "without a claim"}
    number = {v: sum(c.verdict == v for c in claims) for v in ("better", "worse", "undecided", "no claim")}
    each = [f"{n} {told.get(v, v)}" for v, n in number.items() if n]
    return f"{len(claims)} comparison{'s' * (len(claims) > 1)}{what}: {joined(each)}"


# names

TRIVIAL, RANDOM = "the trivial predictor", "random"
SILENT = ("Method", "Remark", "Reason", "why", "Expected layer", "Item", "Value")  # columns whose words claim nothing
LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "ru": "Russian",
    "sw": "Swahili",
    "th": "Thai",
    "tr": "Turkish",
    "ur": "Urdu",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
CODES = {title: code for code, title in LANGUAGES.items()}
HEADLINE = {title: (metric, split) for title, metric, split in TASKS.values()}


def is_claims(table):
    return "Verdict" in table.columns
