"""`bertvision score` against both official scripts of SQuAD, written again here from what they compute."""

import json
import random
import re
import unicodedata
from collections import defaultdict

import pytest

from bertvision.cli import main

# The reference. It shares nothing with the package: no regular expression for articles, no tables, no cumulative sums.

ASCII_PUNCTUATION = {chr(c) for c in range(33, 127) if not chr(c).isalnum()}


def words(text):
    """Lower case, without ASCII punctuation, then without the English articles that stand alone."""
    kept = [character for character in text.lower() if character not in ASCII_PUNCTUATION]
    spaced = re.sub(r"\w+", lambda run: " " if run[0] in {"a", "an", "the"} else run[0], "".join(kept))
    return spaced.split()


def overlap(predicted, gold):
    """F1 of two bags of words that share at least one, 0 otherwise."""
    left = list(gold)
    shared = 0
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def questions_of(dataset):
    return {
        q["id"]: [a["text"] for a in q["answers"]] for d in dataset["data"] for p in d["paragraphs"] for q in p["qas"]
    }


def script_1(dataset, predictions):
    """What the script of 1.1 prints: every gold answer counts, and bags without a word share nothing."""
    exact, f1, asked = 0.0, 0.0, questions_of(dataset)
    for id, answers in asked.items():
        if id in predictions:
            predicted = words(predictions[id])
            exact += any(predicted == words(a) for a in answers)
            f1 += max(overlap(predicted, words(a)) for a in answers)
    return {"exact_match": 100 * exact / len(asked), "f1": 100 * f1 / len(asked)}


def raw_scores_2(answers, prediction):
    """Exact match and F1 of 2.0 before thresholds: gold answers without a word count only where there is no other."""
    predicted, golds = words(prediction), [g for g in map(words, answers) if g] or [[]]
    f1 = max(float(predicted == g) if not (predicted and g) else overlap(predicted, g) for g in golds)
    return float(predicted in golds), f1


def best_2(asked, predictions, scores, null_odds):
    """Return the highest sum between no answer and an answer everywhere, and the null odds that give it."""
    total = best = sum(not answers for answers in asked.values())
    threshold = 0.0
    by_odds = defaultdict(list)
    for id, odds in null_odds.items():
        by_odds[odds].append(id)
    for odds in sorted(by_odds):
        for id in by_odds[odds]:
            if id in scores:
                total += scores[id] if asked[id] else -bool(predictions[id])
                if total > best:
                    best, threshold = total, odds
    return 100 * best / len(scores), threshold


def script_2(dataset, predictions, null_odds=None, threshold=1.0):
    """What the script of 2.0 prints for predictions to all questions."""
    asked = questions_of(dataset)
    raw = {id: raw_scores_2(answers, predictions[id]) for id, answers in asked.items()}
    silent = {id for id in asked if (null_odds or {}).get(id, 0.0) > threshold}
    printed = {}
    for prefix, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        ids = [id for id, answers in asked.items() if bool(answers) in wanted]
        if not ids:
            continue
        for column, name in enumerate(("exact", "f1")):
            right = [float(not asked[id]) if id in silent else raw[id][column] for id in ids]
            printed[f"{prefix}{name}"] = 100 * sum(right) / len(ids)
        printed[f"{prefix}total"] = len(ids)
    for column, name in enumerate(("exact", "f1")) if null_odds else ():
        one = {id: scores[column] for id, scores in raw.items()}
        printed[f"best_{name}"], printed[f"best_{name}_thresh"] = best_2(asked, predictions, one, null_odds)
    return printed


def test_the_reference_on_cases_worked_by_hand():
    assert words("The  Eiffel-Tower, an a.a!") == ["eiffeltower", "aa"] and words("“The” _a b—a") == ["“", "”", "b—"]
    assert overlap(["no", "no", "x"], ["no", "no"]) == pytest.approx(0.8)
    dataset = {
        "data": [
            {
                "paragraphs": [
                    {"qas": [{"id": "r", "answers": [{"text": "Rome"}, {"text": "."}]}, {"id": "n", "answers": []}]}
                ]
            }
        ]
    }
    assert script_2(dataset, {"r": ".", "n": "the"}) == {
        "exact": 50,
        "f1": 50,
        "total": 2,
        "HasAns_exact": 0,
        "HasAns_f1": 0,
        "HasAns_total": 1,
        "NoAns_exact": 100,
        "NoAns_f1": 100,
        "NoAns_total": 1,
    }
    assert best_2({"r": ["Rome"], "n": []}, {"r": "Rome", "n": "the"}, {"r": 1.0, "n": 1.0}, {"n": -1, "r": 2}) == (
        50,
        0.0,
    )
    dataset["data"][0]["paragraphs"][0]["qas"].pop()
    assert script_1(dataset, {"r": "the"}) == {"exact_match": 100, "f1": 0}


# Predictions to compare on.


def perfect(answers, context, draw):
    return answers[0] if answers else ""


def a_span(answers, context, draw):
    tokens = context.split()
    start = draw.randrange(len(tokens))
    return " ".join(tokens[start : start + draw.randint(1, 6)])


def part_of_the_answer(answers, context, draw):
    return (
        " ".join(draw.sample(tokens, draw.randint(1, len(tokens))))
        if (tokens := perfect(answers, context, draw).split())
        else "Rome"
    )


def other_case(answers, context, draw):
    return draw.choice((str.upper, str.swapcase, str.title))(draw.choice(answers or [a_span(answers, context, draw)]))


def articles_and_punctuation(answers, context, draw):
    text = draw.choice(answers or ["", "it"])
    return draw.choice(
        ("The {}", "an {}.", "{} the", "the, a; {}!", "“{}”", "a-{}", "the_{}", "{}'s", "a {} a {}")
    ).replace("{}", text)


def unicode_forms(answers, context, draw):
    text = draw.choice(answers or ["ÀÉ", "İstanbul"])
    changes = (
        lambda t: unicodedata.normalize("NFD", t),
        lambda t: t.replace(" ", "\u00a0"),
        lambda t: t.replace(" ", "\u200b"),
        lambda t: t + "ß",
        lambda t: "İ" + t,
        lambda t: "ΣΑΣ " + t,
        lambda t: t.replace("-", "–"),
        lambda t: "ａ " + t,
        lambda t: "東京 the " + t,
        lambda t: "a\u0301 " + t,
        lambda t: t.replace(" ", "\u2028"),
    )
    return draw.choice(changes)(text)


def without_a_word(answers, context, draw):
    return draw.choice(("", ".", "the", " ", "a an", "...", "?!", "\t", "“", "The."))


def mixture(answers, context, draw):
    return draw.choice(
        (perfect, a_span, part_of_the_answer, other_case, articles_and_punctuation, unicode_forms, without_a_word)
    )(answers, context, draw)


VARIANTS = (
    perfect,
    lambda *_: "",
    a_span,
    part_of_the_answer,
    other_case,
    articles_and_punctuation,
    unicode_forms,
    without_a_word,
    mixture,
)
NAMES = [v.__name__ if v.__name__ != "<lambda>" else "empty" for v in VARIANTS]
WITH_A_DOT = {
    "5725bad5271a42140099d0c1",
    "5730b7ce069b5314008322c4",
    "57340d124776f419006617bf",
}  # a gold answer is "."


def predicted(dataset, variant, seed=0):
    draw = random.Random(seed)
    return {
        q["id"]: variant([a["text"] for a in q["answers"]], p["context"], draw)
        for d in dataset["data"]
        for p in d["paragraphs"]
        for q in p["qas"]
    }


def odds_of(predictions, kind, seed=0):
    """Null odds in an order of their own."""
    draw, ids = random.Random(seed), list(predictions)
    draw.shuffle(ids)
    values = {
        "apart": lambda: draw.gauss(0, 4),
        "tied": lambda: draw.randint(-3, 4),
        "probabilities": draw.random,
        "equal": lambda: 0.25,
        "below 0": lambda: -1 - draw.randint(0, 9) / 8,
    }[kind]
    return {id: values() for id in ids}


# Both on one dataset, through the command line.


def printed(folder, capsys, dataset, predictions, *options, null_odds=None):
    files = {"gold.json": dataset, "predictions.json": predictions} | ({"odds.json": null_odds} if null_odds else {})
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    argv = ["score", str(folder / "gold.json"), str(folder / "predictions.json"), *options]
    code = main(argv + (["--null-odds", str(folder / "odds.json")] if null_odds else []))
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)


def assert_same(found, expected):
    assert list(found)[: len(expected)] == list(expected)  # then come our own numbers
    for name, value in expected.items():
        limit = 0 if name.endswith(("_thresh", "total")) else 1e-9
        assert abs(found[name] - value) <= limit, f"{name}: {found[name]!r}, the script prints {value!r}"


@pytest.fixture(scope="module")
def dev(data_dir):
    return {name: json.loads((data_dir / "SQuAD" / f"dev-v{name}.json").read_text()) for name in ("1.1", "2.0")}


@pytest.fixture(scope="module")
def part(dev):
    """Some 400 questions of each dev set, all paragraphs with a `.` among them."""

    def kept(paragraph, number):
        return number % 37 == 0 or any(q["id"] in WITH_A_DOT for q in paragraph["qas"])

    return {
        name: whole
        | {
            "data": [
                {**d, "paragraphs": [p for n, p in enumerate(d["paragraphs"]) if kept(p, n)]} for d in whole["data"]
            ]
        }
        for name, whole in dev.items()
    }


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_predictions_to_1_1(variant, part, tmp_path, capsys):
    predictions = predicted(part["1.1"], variant)
    assert_same(printed(tmp_path, capsys, part["1.1"], predictions), script_1(part["1.1"], predictions))
    some = {id: text for n, (id, text) in enumerate(predictions.items()) if n % 5} | {"unknown": "Rome"}
    assert_same(printed(tmp_path, capsys, part["1.1"], some), script_1(part["1.1"], some))


@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
@pytest.mark.parametrize("name", ["1.1", "2.0"])
def test_predictions_to_2_0(name, variant, part, tmp_path, capsys):
    predictions = predicted(part[name], variant)
    options = () if name == "2.0" else ("--script", "2.0")
    assert_same(
        printed(tmp_path, capsys, part[name], predictions | {"unknown": "Rome"}, *options),
        script_2(part[name], predictions),
    )


@pytest.mark.parametrize("variant", [perfect, mixture], ids=lambda v: v.__name__)
@pytest.mark.parametrize("kind", ["apart", "tied", "probabilities", "equal", "below 0"])
def test_null_odds(kind, variant, part, tmp_path, capsys):
    dataset = part["2.0"]
    predictions = predicted(dataset, variant)
    null_odds = odds_of(predictions, kind)
    one_of_them = sorted(null_odds.values())[len(null_odds) // 3]
    for threshold in (None, 0.0, -2.5, one_of_them):
        options = () if threshold is None else (f"--threshold={threshold!r}",)
        found = printed(tmp_path, capsys, dataset, predictions, *options, null_odds=null_odds | {"unknown": -99.0})
        assert_same(found, script_2(dataset, predictions, null_odds, 1.0 if threshold is None else threshold))


@pytest.mark.parametrize("kind", ["tied", "below 0"])
def test_what_is_called_attainable_is_the_best_that_the_script_prints(kind, part, tmp_path, capsys):
    dataset = part["2.0"]
    predictions = predicted(dataset, mixture)
    null_odds = odds_of(predictions, kind)
    found = printed(tmp_path, capsys, dataset, predictions, null_odds=null_odds)
    tried = {t: script_2(dataset, predictions, null_odds, t) for t in sorted(set(null_odds.values())) + [-99]}
    for name in ("exact", "f1"):
        attained, threshold = found[f"best_{name}_attainable"], found[f"best_{name}_attainable_thresh"]
        assert attained == pytest.approx(max(t[name] for t in tried.values()), abs=1e-9)
        assert script_2(dataset, predictions, null_odds, threshold)[name] == pytest.approx(attained, abs=1e-9)
        assert found[f"{name}_without_threshold"] == pytest.approx(script_2(dataset, predictions)[name], abs=1e-9)


def test_gold_answers_without_a_word_count_in_1_1(dev, tmp_path, capsys):
    predictions = predicted(dev["1.1"], perfect) | dict.fromkeys(WITH_A_DOT, ".")
    found = printed(tmp_path, capsys, dev["1.1"], predictions)
    assert_same(found, {"exact_match": 100.0, "f1": 100 * 10_567 / 10_570})
    assert (
        found["exact_match_without_empty_gold"]
        == found["f1_without_empty_gold"]
        == pytest.approx(100 * 10_567 / 10_570)
    )


def test_the_whole_dev_set_of_2_0_with_null_odds(dev, tmp_path, capsys):
    predictions = predicted(dev["2.0"], mixture, 1)
    null_odds = odds_of(predictions, "tied", 1)
    assert_same(
        printed(tmp_path, capsys, dev["2.0"], predictions, null_odds=null_odds),
        script_2(dev["2.0"], predictions, null_odds),
    )


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS, ids=NAMES)
def test_whole_dev_sets(variant, dev, tmp_path, capsys):
    predictions = predicted(dev["1.1"], variant, 2)
    assert_same(printed(tmp_path, capsys, dev["1.1"], predictions), script_1(dev["1.1"], predictions))
    predictions = predicted(dev["2.0"], variant, 2)
    assert_same(printed(tmp_path, capsys, dev["2.0"], predictions), script_2(dev["2.0"], predictions))
    for kind in ("apart", "tied", "probabilities", "equal", "below 0"):
        null_odds = odds_of(predictions, kind, 2)
        for threshold in (1.0, 0.0, -2.5):
            found = printed(tmp_path, capsys, dev["2.0"], predictions, f"--threshold={threshold}", null_odds=null_odds)
            assert_same(found, script_2(dev["2.0"], predictions, null_odds, threshold))


# Without real data: the same on questions made for it, and bad input.


def made(*answers, version="v2.0"):
    """A question for each list of gold answers, with the ids 0, 1, …"""
    qas = [
        {"id": str(n), "question": "Where?", "answers": [{"text": t, "answer_start": 0} for t in texts]}
        for n, texts in enumerate(answers)
    ]
    return {"version": version, "data": [{"title": "t", "paragraphs": [{"context": "Rome . the", "qas": qas}]}]}


def test_a_question_all_of_whose_answers_are_without_a_word_has_an_answer(tmp_path, capsys):
    dataset, predictions = made(["the"], ["Rome", "."], []), {"0": "", "1": ".", "2": "the"}
    assert_same(printed(tmp_path, capsys, dataset, predictions), script_2(dataset, predictions))
    for threshold in (1.0, -1.0):
        null_odds = {"2": 0.0, "0": 0.0, "1": 0.0}
        found = printed(tmp_path, capsys, dataset, predictions, f"--threshold={threshold}", null_odds=null_odds)
        assert_same(found, script_2(dataset, predictions, null_odds, threshold))


@pytest.mark.parametrize(
    "version, script", [("1.1", script_1), ("v2.0", script_2), ("2.0", script_2), (None, script_1)]
)
def test_the_version_of_the_file_chooses_the_script(version, script, tmp_path, capsys):
    dataset, predictions = made(["Rome", "."], ["Rome"], version=version), {"0": ".", "1": "the Rome"}
    assert_same(printed(tmp_path, capsys, dataset, predictions), script(dataset, predictions))


def test_without_a_threshold_null_odds_above_1_are_no_answer(tmp_path, capsys):
    dataset, predictions, null_odds = made(["Rome"], []), {"0": "Rome", "1": "Rome"}, {"0": 1.0, "1": 1.25}
    found = printed(tmp_path, capsys, dataset, predictions, null_odds=null_odds)
    assert (found["exact"], found["exact_without_threshold"]) == (100, 50)


def test_equal_null_odds_are_parted_in_the_order_of_their_file(tmp_path, capsys):
    dataset, predictions = made(["Rome"], []), {"0": "Rome", "1": "Paris"}
    for null_odds, best, threshold in (({"0": 0.5, "1": 0.5}, 100, 0.5), ({"1": 0.5, "0": 0.5}, 50, 0.0)):
        found = printed(tmp_path, capsys, dataset, predictions, null_odds=null_odds)
        assert (found["best_exact"], found["best_exact_thresh"], found["best_exact_attainable"]) == (
            best,
            threshold,
            50,
        )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--script", "1.1"], "question '1' has no answer: not accepted by the script of SQuAD 1.1; use script 2.0"),
        (["--threshold", "0"], "threshold = 0.0: expected null odds with it"),
        (
            ["--null-odds", "odds.json", "--script", "1.1"],
            "null odds: not accepted by the script of SQuAD 1.1; use script 2.0",
        ),
        (["--null-odds", "odds.json", "--threshold", "nan"], "threshold = nan: expected a number"),
        (["--null-odds", "short.json"], "null odds: none for question '1'"),
    ],
)
def test_what_no_script_can_score_is_named(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {
        "gold": made(["Rome"], []),
        "predictions": {"0": "", "1": ""},
        "odds": {"0": 1, "1": 1},
        "short": {"0": 1},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert main(["score", "gold.json", "predictions.json", *options]) == 2
    assert message in capsys.readouterr().err
