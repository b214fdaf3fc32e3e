"""Every sentence and cell of the committed reports that claims a difference, computed again from the predictions.

The checking code (claims_*.py) imports nothing of the package; it reads the pages as readers do.
"""

import ast
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from claims_by_hand import Study, contributions, minus
from claims_in_pages import NUMBER, READERS, clean, read_markdown
from claims_reader import Reader, claims_of
from example_studies_languages import example_languages
from example_studies_pretraining import example_pretraining
from example_studies_probes import example_probes
from example_studies_subsets import example_subsets
from reports import make_report
from scipy import stats

from bertvision.core.io import write_json
from bertvision.engine.grid import load_study
from bertvision.reporting import glue as report
from bertvision.reporting.results import glue_table, read_study

ROOT = Path(__file__).parents[2]
STUDIES = (
    "glue-small",
    "squad-small",
    "probes-small",
    "probes-toy",
    "subsets-small",
    "xnli-small",
    "long-attention-small",
    "pretrain-small",
)
_known = {}


def checked(study, page=None):
    """Read a report's Markdown, or another text in its place; comparisons are computed once a study."""
    known, cache = _known.setdefault(study, (Study(ROOT / "outputs" / study), {}))
    page = page or ROOT / "outputs" / study / "report" / "table.md"
    return Reader(known, read_markdown(page.read_text(encoding="utf-8")), cache).read()


@pytest.mark.parametrize("study", STUDIES)
def test_every_claim_of_a_report_is_what_its_predictions_say(study):
    found = checked(study)
    assert not found.faults, "\n".join(found.faults)
    assert len(found.checked) >= len(claims_of(found.parts)) > 15
    assert found.checked and any("|" not in text for text in found.checked)  # rows and sentences


@pytest.mark.parametrize("study", STUDIES)
def test_the_first_sentence_has_a_word_a_number_and_an_interval(study):
    text = next(p for p in checked(study).parts if isinstance(p, str))
    first = re.split(r"(?<=\.) (?=\S)", text)[0]
    assert re.search(r"\b(better|worse|undecided|no claim)\b", first, re.I), first
    assert re.search(rf"{NUMBER} points \({NUMBER} … {NUMBER}", first), first
    assert first in checked(study).checked


def made_again(study, place):
    """The report of a committed study, made in a copy that shares its runs."""
    copy = place / study
    copy.mkdir()
    shutil.copy(ROOT / "outputs" / study / "plan.json", copy)
    (copy / "runs").symlink_to(ROOT / "outputs" / study / "runs")
    return make_report(load_study(study).report.stem, copy)


QUICK = ("xnli-small", "pretrain-small")


@pytest.mark.parametrize("study", [s if s in QUICK else pytest.param(s, marks=pytest.mark.long) for s in STUDIES])
def test_the_report_made_today_is_the_committed_one_and_its_page_claims_the_same(study, tmp_path):
    today, committed = made_again(study, tmp_path), ROOT / "outputs" / study / "report"
    assert (today / "table.md").read_text(encoding="utf-8") == (committed / "table.md").read_text(encoding="utf-8")
    tables = [pd.read_csv(folder / "table.csv") for folder in (today, committed)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-9, atol=1e-12)  # processors differ in the last digits
    claims = claims_of(checked(study).parts)
    for name in ("report.html", "notebook.ipynb"):
        page = claims_of(READERS[Path(name).suffix]((today / name).read_text(encoding="utf-8")))
        assert page and sorted(page) == sorted(claims), name


def test_the_readme_claims_what_the_report_of_its_study_claims():
    text = claims_of(read_markdown((ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(text) > 5 and not set(text) - set(claims_of(checked("glue-small").parts))


# changes by hand


def lines_that_claim(text):
    """The lead and the last row of a table of comparisons: (number of the line, which of the two)."""
    lines = text.splitlines()
    lead = next(i for i, line in enumerate(lines) if line.strip() and not line.startswith("#"))
    row = max(i for i, line in enumerate(lines) if re.search(r"\| (better|worse|undecided)[^|]*\|", line))
    return {"lead": lead, "row": row}


def changed(line, pattern, new):
    """The line with the first match of a pattern changed; the match is its first group."""
    found = re.search(pattern, line)
    return line[: found.start(1)] + new(found[1]) + line[found.end(1) :]


def other_number(text):
    """A tenth of a point more, written as the page writes numbers."""
    value = minus(text) + 0.1
    return (f"{value:+.1f}" if text[0] in "+−" else f"{value:.1f}").replace("-", "−")


OTHER = {"better": "worse", "worse": "better", "undecided": "better"}
CHANGES = {
    "word in the lead": ("lead", r"\b(better|worse|undecided)\b", OTHER.get),
    "number in the lead": ("lead", rf"({NUMBER}) points \(", other_number),
    "lower end in the lead": ("lead", rf"points \(({NUMBER})\s…", other_number),
    "upper end in the lead": ("lead", rf"points \({NUMBER}\s…\s({NUMBER})", other_number),
    "count in the lead": ("lead", r"(\d+) (?:of \d+ |comparisons|worse|undecided|seeds)", lambda n: str(int(n) + 1)),
    "word in a row": ("row", r"\| (better|worse|undecided)\b", OTHER.get),
    "number in a row": ("row", r"\| ([+−]\d+\.\d) \|", other_number),
    "upper end in a row": ("row", rf"\| {NUMBER}\s…\s({NUMBER}) \|", other_number),
    "p in a row": ("row", r"\| (\d\.\d{3}) \|", lambda p: f"{abs(float(p) - 0.002):.3f}"),
}


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_sentence_that_is_changed_by_hand_is_found(study, change, tmp_path):
    where, pattern, new = CHANGES[change]
    text = (ROOT / "outputs" / study / "report" / "table.md").read_text(encoding="utf-8")
    lines, at = text.splitlines(), lines_that_claim(text)[where]
    old, lines[at] = lines[at], changed(lines[at], pattern, new)
    assert lines[at] != old
    (tmp_path / "table.md").write_text("\n".join(lines), encoding="utf-8")
    found = checked(study, tmp_path / "table.md")
    assert found.faults and all(fault.startswith(f"{study}: ") for fault in found.faults)
    assert any(text in clean(lines[at]) for text in found.wrong), found.faults


@pytest.mark.parametrize(
    "text",
    [
        "Heads are better than BERT, 1 epoch on CoLA.",
        "Longer training beats a head.",
        "No difference beyond chance.",
        "BERT, 9 epochs: undecided against BERT, 1 epoch on CoLA (+1.0).",
    ],
)
def test_a_claim_that_nothing_can_attribute_is_a_fault(text, tmp_path):
    page = (ROOT / "outputs" / "glue-small" / "report" / "table.md").read_text(encoding="utf-8")
    (tmp_path / "table.md").write_text(page.replace("\n\n## ", f"\n\n{text}\n\n## ", 1), encoding="utf-8")
    (fault,) = checked("glue-small", tmp_path / "table.md").faults
    assert fault.startswith("glue-small: ") and fault.endswith(text)


# forms that the committed reports do not show, from invented studies


def read_text(folder, text):
    return Reader(Study(Path(folder)), read_markdown(text), {}).read()


EXAMPLES = {
    "probes": example_probes,
    "subsets": example_subsets,
    "languages": example_languages,
    "pretraining": example_pretraining,
}


def invented(name):
    """Folder and Markdown of an invented study."""
    folder = EXAMPLES[name]()
    page = (make_report(name, folder) / "table.md").read_text(encoding="utf-8")
    return folder, page.partition("\n## Notes")[0] if name == "subsets" else page


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("probes", "subsets")]  # several seconds each


@pytest.mark.parametrize("name", [*LONG, "languages", "pretraining"])
def test_the_sentences_of_invented_studies_are_read_too(name):
    folder, text = invented(name)
    found = read_text(folder, text)
    assert not found.faults and found.checked, "\n".join(found.faults)
    assert re.search(r"\bbetter\b", found.checked[-1] + "".join(found.checked))
    assert read_text(folder, text.replace(" is better than ", " is worse than ", 1)).faults


STEPS = {  # step: (title, experiment, variant, how often its answers are right)
    "tuned": ("BERT, 1 epoch", "finetune", "", 0.6),
    "longer": ("BERT, 3 epochs", "finetune", "", 0.8),
    "heads": ("Heads", "train_heads", "last:mean", 0.62),
    "spoilt": ("Spoilt", "train_spoilt", "", 0.4),
}


def write_methods(folder, seeds, steps=STEPS, n=400):
    """A study of several methods on RTE, whose answers are drawn."""
    labels = np.arange(n) % 2
    ids = [f"validation/{i}" for i in range(n)]
    for step, (_, experiment, variant, right) in steps.items():
        for seed in range(seeds):
            rng = np.random.default_rng([seed, list(STEPS).index(step)])
            said = np.where(rng.random(n) < right, labels, 1 - labels)
            place = folder / "runs" / f"{step}.rte.bert.s{seed}"
            place.mkdir(parents=True)
            rows = pd.DataFrame({"split": "validation", "example_id": ids, "label": labels, "prediction": said})
            (rows.assign(variant=variant) if variant else rows).to_parquet(place / "predictions.parquet", index=False)
            metrics = {"validation": {"accuracy": float((said == labels).mean())}}
            variants = [{"variant": variant, "seed": seed, "metrics": metrics, "parameters": 9}] if variant else None
            record = {
                "schema": 1,
                "status": "done",
                "experiment": experiment,
                "step": step,
                "task": "rte",
                "encoder": "bert",
            }
            record |= {"seed": seed, "protocol": "carved", "parameters": {"epochs": 1.0 if step == "tuned" else 3.0}}
            record |= {"metrics": metrics, "baselines": {"validation": {"accuracy": 0.5}}, "variants": variants}
            record |= {"examples": {"train": 900, "validation": n}, "history": [], "seconds": {"total": 9.0}}
            write_json(place / "record.json", record | {"versions": {}, "device": {}, "code_version": "none"})
    jobs = [{"run": p.name, "step": p.name.split(".")[0], "task": "rte"} for p in sorted(folder.glob("runs/*"))]
    jobs = [j | {"encoder": "bert", "seed": int(j["run"][-1])} for s in steps for j in jobs if j["step"] == s]
    titles = {step: title for step, (title, *_) in steps.items()}
    write_json(folder / "plan.json", {"study": "methods", "title": "Heads or more?", "jobs": jobs, "titles": titles})
    return read_study(folder)


def methods_text(study):
    return (make_report("glue", study.folder) / "table.md").read_text(encoding="utf-8")


def test_a_study_of_methods_says_what_is_better_worse_and_undecided(tmp_path):
    text = methods_text(write_methods(tmp_path / "methods", 5))
    first = clean(text.split("\n\n")[1])
    assert re.match(r"More fine-tuning is better than BERT, 1 epoch on 1 of 1 tasks, by up to [\d.]+ points \(", first)
    assert (
        "; Spoilt is worse on 1 of 1 tasks, by up to" in first and "; undecided: +" in first and " for heads." in first
    )
    found = read_text(tmp_path / "methods", text)
    assert not found.faults and len(found.checked) > 6, "\n".join(found.faults)
    for old, new in (
        ("Spoilt is worse", "Spoilt is better"),
        ("1 of 1 tasks, by", "1 of 2 tasks, by"),
        ("5 seeds", "6 seeds"),
    ):
        assert old in text and read_text(tmp_path / "methods", text.replace(old, new, 1)).faults


def test_one_seed_is_no_claim_in_the_first_sentence(tmp_path):
    study = write_methods(tmp_path / "methods", 1)
    first = report.answer(study, glue_table(study), report.against(study, glue_table(study)))
    assert first.startswith(
        "No claim can be made (one seed) on whether more fine-tuning, heads or Spoilt are better than"
    )


def test_one_method_is_compared_with_the_trivial_predictor(tmp_path):
    study = write_methods(tmp_path / "methods", 3, {"tuned": STEPS["tuned"]})
    text = methods_text(study)
    assert re.match(
        r"bert \(BERT, 1 epoch\) is better than the trivial baseline on \d of 1 tasks", text.split("\n\n")[1]
    )
    assert not read_text(tmp_path / "methods", text).faults


# the checking code itself


def test_the_checking_code_shares_nothing_with_the_package():
    for path in (ROOT / "tests" / "support").glob("claims_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert names and not {n for n in names if n.split(".")[0] in ("bertvision", "pandas")}


def score(metric, p, y):
    """Scores as textbooks have them."""
    if metric == "accuracy":
        return (p == y).mean()
    if metric == "f1":
        return 2 * (p & y).sum() / (p.sum() + y.sum())
    if metric == "matthews":
        return np.corrcoef(p, y)[0, 1]
    return getattr(stats, f"{metric}r")(p, y).statistic


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_the_contributions_are_those_of_the_jackknife(metric):
    rng = np.random.default_rng(3)
    y = rng.normal(size=400) if metric in ("pearson", "spearman") else rng.integers(0, 2, 400)
    p = (
        np.round(y + rng.normal(size=400), 1)
        if metric in ("pearson", "spearman")
        else np.where(rng.random(400) < 0.7, y, 1 - y)
    )
    each, n = contributions(metric, p, y), len(y)
    left_out = np.array([score(metric, np.delete(p, i), np.delete(y, i)) for i in range(n)])
    jackknife = n * score(metric, p, y) - (n - 1) * left_out
    assert np.isclose(each.mean(), score(metric, p, y))
    assert np.corrcoef(each, jackknife)[0, 1] > 0.999 and np.isclose(each.std(), jackknife.std(), rtol=0.02)
