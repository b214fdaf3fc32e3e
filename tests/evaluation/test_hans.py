"""HANS: files, labels by name, the guard, predictions, other encoder families. Only the last tests read real files."""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf

from bertvision.cli import main
from bertvision.core.errors import DataError, EncoderError, ParameterError
from bertvision.core.io import read_json
from bertvision.data.batches import tokenise
from bertvision.data.sources import load_task
from bertvision.data.tasks import get_task, input_files
from bertvision.evaluation.hans import (
    LABELS,
    MnliScore,
    chance_reason,
    check_above_chance,
    evaluate_hans,
    hans_part,
    load_nli,
    mnli_score,
    run_hans,
    score_hans_file,
    self_test,
    two_way,
    write_hans,
)
from bertvision.models.encoders import Encoder, load_encoder
from bertvision.training.trainer import fit

COLUMNS = (
    "gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 pairID heuristic subcase template"
).split()
HEURISTICS = ("lexical_overlap", "subsequence", "constituent")
NLI = get_task("mnli").labels
MARK = {
    "entailment": "",
    "neutral": " perhaps",
    "contradiction": " not",
}  # a word of the hypothesis gives our MNLI's answers away
WHO, DID = ("king", "queen", "doctor", "teacher", "judge", "artist"), ("slept", "left", "smiled", "waited", "arrived")


def hans_rows(n=10, marked=True):
    """Return n pairs of each of 30 subcases; marked: the word `not` shows half of the pairs that are not entailed."""
    for h in HEURISTICS:
        for k in range(10):
            label = LABELS[k % 2]
            for i in range(n):
                who, did = WHO[i % len(WHO)], DID[(i + k) % len(DID)]
                word = " not" if marked and k % 2 and i % 2 else ""
                yield [
                    label,
                    "NA",
                    "NA",
                    "NA",
                    "NA",
                    f"The {who} {did} .",
                    f"The {who}{word} {did} .",
                    h,
                    f"{h[0]}{label[0]}_case{k}",
                    f"temp{k}",
                ]


def write_hans_file(path, n=10, change=None, columns=COLUMNS, **kwargs):
    lines = [dict(zip(COLUMNS, [*row[:7], f"ex{i}", *row[7:]])) for i, row in enumerate(hans_rows(n, **kwargs))]
    if change:
        change(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n".join("\t".join(row) for row in [columns, *([line[c] for c in columns] for line in lines)]) + "\n",
        encoding="utf-8",
    )
    return path


def write_mnli(path, n=120, order=NLI):
    rng = np.random.default_rng(len(path.name))
    lines = [
        f"The {who} {did} .\tThe {who}{MARK[label]} {did} .\t{label}"
        for label, who, did in ((order[i % 3], rng.choice(WHO), rng.choice(DID)) for i in range(n))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("sentence1\tsentence2\tgold_label\n" + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in ("train", "evaluation"):
        write_hans_file(root / "HANS" / f"heuristics_{name}_set.txt")
    write_mnli(root / "MNLI" / "train.tsv", 360)
    write_mnli(root / "MNLI" / "dev_matched.tsv", 120)
    return root


@pytest.fixture(scope="module")
def hans(root):
    return load_task("hans", root)["validation"]


@pytest.fixture(scope="module")
def dev(root):
    return load_task("mnli", root, splits=("validation_matched",))["validation_matched"]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A tiny encoder that has learnt our MNLI, as a checkpoint folder."""
    data, encoder = load_task("mnli", root), load_encoder("tiny-random", get_task("mnli"))
    fit(encoder, data, epochs=12, lr=1e-3, batch_size=16, max_length=64, precision="fp32")
    encoder.save(folder := tmp_path_factory.mktemp("trained") / "model")
    return folder


# ---- the data


def test_what_travels_along_is_loaded_as_it_is_written(root):
    data = load_task("hans", root)
    one = data["validation"][11]
    assert data["validation"].column_names == [
        "example_id",
        "text",
        "text_pair",
        "label",
        "pairID",
        "heuristic",
        "subcase",
        "template",
    ]
    assert (one["example_id"], one["pairID"], one["heuristic"], one["label"]) == (
        "validation/11",
        "ex11",
        "lexical_overlap",
        1,
    )
    assert data.source["files"]["train"][0][0] == "heuristics_train_set.txt" and len(input_files("hans", root)) == 2
    assert "more" not in load_task("mnli", root)["train"].column_names


def test_text_that_looks_like_a_missing_value_survives(tmp_path):
    texts = ["NA", "null", "nan", '"', "None", 'a "b'] * 50

    def change(lines):
        for line, text in zip(lines, texts):
            line["sentence1"] = line["subcase"] = text

    for name in ("train", "evaluation"):
        write_hans_file(tmp_path / "HANS" / f"heuristics_{name}_set.txt", change=change)
    data = load_task("hans", tmp_path)["validation"]
    assert data["text"][:] == data["subcase"][:] == texts


def test_the_files_may_be_archives_and_evaluation_needs_no_train_file(root, tmp_path):
    raw = (root / "HANS" / "heuristics_evaluation_set.txt").read_bytes()
    (tmp_path / "HANS").mkdir()
    (tmp_path / "HANS" / "heuristics_evaluation_set.txt.gz").write_bytes(gzip.compress(raw))
    assert (
        load_task("hans", tmp_path, splits=("validation",)).fingerprint
        == load_task("hans", root, splits=("validation",)).fingerprint
    )
    with pytest.raises(DataError, match="heuristics_train_set.txt: no such file"):
        load_task("hans", tmp_path)
    with pytest.raises(ParameterError, match="unknown split 'valid'"):
        load_task("hans", root, splits=("valid",))


def spoil(column, value):
    return lambda lines: lines[3].update({column: value})


@pytest.mark.parametrize(
    "change, columns, message",
    [
        (None, [c for c in COLUMNS if c != "subcase"], "_set.txt:1: no column 'subcase'; the header has 'gold_label'"),
        (None, [c for c in COLUMNS if c != "gold_label"], "no column 'gold_label'"),
        (
            spoil("gold_label", "contradiction"),
            COLUMNS,
            "_set.txt:5: label 'contradiction': expected one of entailment, non-entailment",
        ),
        (
            spoil("heuristic", "overlap"),
            COLUMNS,
            "_set.txt:5: heuristic 'overlap': expected one of lexical_overlap, subsequence, constituent",
        ),
        (spoil("sentence2", ""), COLUMNS, "_set.txt:5: text_pair is empty"),
        (spoil("template", "a\tb"), COLUMNS, "_set.txt:5: 12 fields where 11 are expected"),
    ],
)
def test_a_damaged_file_is_refused(change, columns, message, tmp_path):
    write_hans_file(tmp_path / "HANS" / "heuristics_evaluation_set.txt", change=change, columns=columns)
    with pytest.raises(DataError, match=message) as caught:
        load_task("hans", tmp_path, splits=("validation",))
    assert "\n" not in str(caught.value)


# ---- labels by name


def test_the_answer_comes_first_and_then_its_name():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 500)
    said = two_way(p, NLI)
    assert (said == (p.argmax(1) != 0)).all() and (said != (p[:, 0] <= 0.5)).any(), (
        "adding the others up is another rule"
    )
    for order in ([0, 2, 1], [1, 0, 2], [2, 1, 0]):
        assert (two_way(p[:, order], [NLI[i].upper() for i in order]) == said).all()
    assert (
        two_way(p[:, 1::-1], ("not_entailment", "entailment")) == two_way(p[:, :2], ("entailment", "neutral"))
    ).all()


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("entailment",),
        ("entailment", "Entailment"),
        ("entailment", "other"),
        ("neutral", "contradiction"),
    ],
)
def test_labels_without_meaning_are_refused(labels):
    with pytest.raises(DataError, match="expected entailment, neutral, contradiction or"):
        two_way(np.zeros((2, len(labels))), labels)


def head(folder, order, names=None):
    """Put the rows of a saved head into another order; names follow unless they are given."""
    model = tf.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for p in model.classifier.parameters():
            p.copy_(p[order].clone())
    names = names or [NLI[i] for i in order]
    model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    model.save_pretrained(folder)


def copied(trained, target):
    tf.AutoTokenizer.from_pretrained(trained).save_pretrained(target)
    tf.AutoModelForSequenceClassification.from_pretrained(trained).save_pretrained(target)
    return target


def test_a_trained_checkpoint_is_scored(trained, root, tmp_path):
    result = run_hans(str(trained), root, tmp_path / "out")
    assert result.mnli.accuracy > 0.95 and not result.refused
    for shares in result.heuristics.values():
        assert shares["entailment"] > 0.9 and 0.3 < shares["non-entailment"] < 0.7  # half of these bear no mark
    told = read_json(tmp_path / "out" / "hans.json")
    assert {k: told[k] for k in ("examples", "heuristics", "subcases", "refused")} == result.record and len(
        told["subcases"]
    ) == 30
    assert told["templates"] == result.templates and told["mnli"]["examples"] == 120


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_rows_and_names_in_another_order_change_nothing(order, trained, root, hans, tmp_path):
    head(copied(trained, tmp_path / "m"), order)
    ours, theirs = (evaluate_hans(load_nli(str(folder)), hans) for folder in (trained, tmp_path / "m"))
    pd.testing.assert_frame_equal(ours.rows, theirs.rows)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2]])
def test_rows_that_moved_without_their_names_are_refused(order, trained, root, hans, dev, tmp_path):
    """Each exchange that moves entailment."""
    head(copied(trained, tmp_path / "m"), order, NLI)
    encoder = load_nli(str(tmp_path / "m"))
    score = mnli_score(encoder, dev)
    with pytest.raises(DataError, match="not scored on HANS: accuracy 0.* chance"):
        evaluate_hans(encoder, hans, score)
    result = evaluate_hans(encoder, hans, score, strict=False)
    assert result.record == {"examples": 0, "heuristics": {}, "subcases": {}, "refused": result.refused} and not len(
        result.predictions
    )
    assert run_hans(str(tmp_path / "m"), root, tmp_path / "out").refused and not (tmp_path / "out").exists()


def test_heads_that_are_none(trained, root, tmp_path):
    with pytest.raises(EncoderError, match="no trained head for entailment"):
        load_nli("tiny-random")
    head(copied(trained, tmp_path / "m"), [0, 1, 2], ["LABEL_0", "LABEL_1", "LABEL_2"])
    with pytest.raises(EncoderError, match="expected entailment, neutral, contradiction or .*set id2label"):
        run_hans(str(tmp_path / "m"), root)


def test_a_two_way_head_is_scored_by_name(root, hans, dev, tmp_path):
    """Trained on HANS's own train file, whose labels it keeps; then its names exchanged for RTE's, rows and all."""
    for name in ("train", "evaluation"):

        def change(lines):
            for line in lines:
                line["sentence2"] = (
                    line["sentence2"]
                    .replace(" not", "")
                    .replace(" .", " not ." if line["gold_label"] != "entailment" else " .")
                )

        write_hans_file(tmp_path / "d" / "HANS" / f"heuristics_{name}_set.txt", change=change)
    data = load_task("hans", tmp_path / "d")
    fitted = fit(
        load_encoder("tiny-random", data.task), data, epochs=10, lr=1e-3, batch_size=16, max_length=64, precision="fp32"
    )
    fitted.encoder.save(tmp_path / "m")
    first = evaluate_hans(load_nli(str(tmp_path / "m")), data)
    assert first.metrics["accuracy"] > 0.95
    model = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    with torch.no_grad():
        for p in model.classifier.parameters():
            p.copy_(p[[1, 0]].clone())
    model.config.id2label, model.config.label2id = (
        {0: "not_entailment", 1: "entailment"},
        {"not_entailment": 0, "entailment": 1},
    )
    model.save_pretrained(tmp_path / "m")
    again = load_nli(str(tmp_path / "m"))
    assert again.task.name == "rte"
    pd.testing.assert_frame_equal(evaluate_hans(again, data).rows, first.rows)
    assert 0.6 < mnli_score(again, dev).trivial < 0.7


# ---- the guard


@pytest.mark.parametrize(
    "accuracy, trivial, n, words",
    [
        (0.84, 0.354, 9815, ""),
        (0.41, 0.354, 9815, ""),
        (0.40, 0.354, 9815, "near chance"),
        (0.354, 0.354, 9815, "near chance"),
        (0.30, 0.354, 9815, "below chance, its labels may be in another order"),
        (0.45, 0.35, 40, "near chance"),
        (0.68, 0.646, 9815, "near chance"),
        (0.0, 0.646, 9815, "below"),
    ],
)
def test_the_guard(accuracy, trivial, n, words):
    reason = chance_reason(accuracy, trivial, n)
    assert (words in reason) if words else reason == ""
    if words:
        with pytest.raises(DataError, match=re.escape(reason)):
            check_above_chance(accuracy, trivial, n)


def test_the_guard_wants_shares():
    for bad in ((84.0, 0.35, 10), (0.5, float("nan"), 10), (0.5, 0.3, 0)):
        with pytest.raises(ParameterError, match="expected"):
            chance_reason(*bad)


class Oracle(torch.nn.Module):
    """Reads the words of a pair: denial, the same words in order, or neither; then names its answer by `names`."""

    def __init__(self, tokenizer, names, labels=NLI):
        super().__init__()
        self.reads, self.names, self.labels, self.nothing = (
            tokenizer,
            names,
            list(labels),
            torch.nn.Parameter(torch.zeros(1)),
        )
        self.config = tf.PretrainedConfig(id2label=dict(enumerate(labels)))

    @property
    def base_model(self):
        return self

    @property
    def device(self):
        return self.nothing.device

    def forward(self, input_ids, attention_mask, token_type_ids):
        logits = torch.zeros(len(input_ids), len(self.labels))
        for i, (ids, kinds) in enumerate(zip(input_ids, token_type_ids)):
            p, h = (
                self.reads.decode(ids[kinds == k], skip_special_tokens=True).replace(".", "").split() for k in (0, 1)
            )
            rest = iter(p)
            said = (
                "contradiction"
                if {"not", "nobody"} & {*h}
                else "entailment"
                if all(w in rest for w in h)
                else "neutral"
            )
            logits[i, self.labels.index(self.names[said])] = 1.0
        return tf.modeling_outputs.SequenceClassifierOutput(logits=logits)


def oracle(names, labels=NLI):
    tokenizer = load_encoder("tiny-random").tokenizer
    return Encoder("oracle", Oracle(tokenizer, names, labels), tokenizer, get_task("mnli"))


def test_the_dozen_pairs_notice_exchanged_labels():
    sound = self_test(oracle(dict(zip(NLI, NLI))))
    assert sound.shares == {"entailment": 1.0, "non-entailment": 1.0} and sound.remark == "" and len(sound.table) == 12
    for order in ("cne", "nec", "cen", "nce"):
        names = {name: next(n for n in NLI if n[0] == letter) for name, letter in zip(NLI, order)}
        found = self_test(oracle(names))
        assert "its labels seem to be in another order" in found.remark and found.shares["entailment"] == 0.0, order
    assert self_test(oracle(dict(zip(NLI, ("entailment", "contradiction", "neutral"))))).remark == "", (
        "that exchange changes nothing on HANS"
    )
    two = ("entailment", "not_entailment")
    assert self_test(oracle(dict(zip(NLI, (two[0], two[1], two[1]))), two)).remark == ""
    assert (
        "labels those that repeat the premise not_entailment"
        in self_test(oracle(dict(zip(NLI, (two[1], two[0], two[0]))), two)).remark
    )


def test_the_guard_passes_on_what_the_pairs_say(hans):
    names = dict(zip(NLI, NLI[::-1]))
    with pytest.raises(
        DataError, match="below chance, .*; of twelve easy pairs it labels those that repeat the premise contradiction"
    ):
        evaluate_hans(oracle(names), hans, (0.34, 0.354, 9815))


# ---- a part, and files


@pytest.mark.parametrize("n, each", [(30, {1}), (90, {3}), (100, {3, 4}), (300, {10}), (900, {10}), (0, {10})])
def test_a_part_has_its_share_of_each_subcase(n, each, hans):
    part = hans_part(hans, n, seed=3)
    counts = pd.Series(part["subcase"][:]).value_counts()
    assert len(counts) == 30 and set(counts) == each
    assert part["pairID"][:] == hans_part(hans, n, seed=3)["pairID"][:]
    if n == 90:
        assert part["pairID"][:] != hans_part(hans, n, seed=4)["pairID"][:]


def test_a_part_gets_the_answers_of_the_whole(trained, hans):
    encoder = load_nli(str(trained))
    whole, part = (
        evaluate_hans(encoder, hans, precision="fp32"),
        evaluate_hans(encoder, hans, examples=60, seed=1, precision="fp32"),
    )
    said = dict(zip(whole.rows["pairID"], whole.rows["prediction"]))
    assert len(part.rows) == 60 and [said[p] for p in part.rows["pairID"]] == part.rows["prediction"].tolist()
    assert list(part.predictions.columns) == [
        "split",
        "example_id",
        "label",
        "prediction",
        "pairID",
        "heuristic",
        "subcase",
    ]
    assert set(part.predictions["split"]) == {"hans"} and part.baseline == {"accuracy": 0.5}
    json.dumps(part.record)


def official(evaluation, predictions):
    """The rule of the official script, written anew: shares right by (heuristic, label), subcase, template."""
    said = dict(line.split(",") for line in predictions.read_text().splitlines()[1:])
    lines = [line.split("\t") for line in evaluation.read_text().splitlines()]
    counts = {}
    for row in (dict(zip(lines[0], line)) for line in lines[1:]):
        right = (said[row["pairID"]] == "entailment") == (row["gold_label"] == "entailment")
        for key in ((row["heuristic"], row["gold_label"]), row["subcase"], row["template"]):
            counts.setdefault(key, []).append(right)
    return {key: sum(rights) / len(rights) for key, rights in counts.items()}


def test_any_file_is_scored_as_the_official_script_does(root, tmp_path):
    evaluation, rng = root / "HANS" / "heuristics_evaluation_set.txt", np.random.default_rng(0)
    path = tmp_path / "theirs.txt"
    path.write_text(
        "pairID,gold_label\n"
        + "".join(
            f"ex{i},{rng.choice(['entailment', 'neutral', 'contradiction', 'non-entailment'])}\n"
            for i in rng.permutation(300)
        )
    )
    found, expected = score_hans_file(evaluation, path), official(evaluation, path)
    for heuristic, shares in found.heuristics.items():
        for label, share in shares.items():
            assert share == pytest.approx(expected[heuristic, label])
    assert found.subcases == pytest.approx({k: expected[k] for k in found.subcases}) and len(found.subcases) == 30
    assert found.templates == pytest.approx({k: expected[k] for k in found.templates}) and len(found.templates) == 10


def test_written_and_read_again(trained, root, hans, tmp_path):
    result = evaluate_hans(load_nli(str(trained)), hans)
    lines = write_hans(tmp_path / "p.txt", result).read_text().splitlines()
    assert (
        lines[0] == "pairID,gold_label"
        and len(lines) == 301
        and {line.split(",")[1] for line in lines[1:]} == set(LABELS)
    )
    assert lines[1].split(",")[0] == "ex0"
    again = score_hans_file(hans, tmp_path / "p.txt")
    pd.testing.assert_frame_equal(again.rows, result.rows)
    assert again.record == result.record


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda lines: lines[1:], r"p.txt:1: 'ex0,entailment': expected the header pairID,gold_label"),
        (lambda lines: lines[:-1], "p.txt: 1 of 300 pairs have no prediction, the first is 'ex299'"),
        (
            lambda lines: [*lines, "ex300,entailment"],
            "p.txt: 1 of 301 pairs are not in .*evaluation_set.txt, the first is 'ex300'",
        ),
        (lambda lines: [*lines, "ex7,entailment"], "p.txt:302: pairID 'ex7' occurs twice"),
        (lambda lines: [*lines[:4], "ex3,1", *lines[5:]], "p.txt:5: label '1': expected entailment or non-entailment"),
        (lambda lines: [*lines[:4], "ex3", *lines[5:]], "p.txt:5: label ''"),
        (lambda lines: [], "the file is empty"),
    ],
)
def test_files_that_cannot_be_scored(change, message, root, tmp_path):
    (tmp_path / "p.txt").write_text(
        "\n".join(change(["pairID,gold_label", *(f"ex{i},entailment" for i in range(300))]))
    )
    with pytest.raises(DataError, match=message):
        score_hans_file(root / "HANS" / "heuristics_evaluation_set.txt", tmp_path / "p.txt")


def test_two_pairs_of_one_name(hans, trained):
    twice = hans.select([*range(30), 4])
    with pytest.raises(DataError, match="pairID 'ex4' occurs twice"):
        evaluate_hans(load_nli(str(trained)), twice)


# ---- other encoders

SMALL = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=130,
    num_labels=3,
)
FAMILIES = {
    "bert": lambda v: tf.BertForSequenceClassification(tf.BertConfig(vocab_size=v, **SMALL)),
    "albert": lambda v: tf.AlbertForSequenceClassification(tf.AlbertConfig(vocab_size=v, embedding_size=16, **SMALL)),
    "roberta": lambda v: tf.RobertaForSequenceClassification(
        tf.RobertaConfig(vocab_size=v, pad_token_id=0, type_vocab_size=1, **SMALL)
    ),
    "distilbert": lambda v: tf.DistilBertForSequenceClassification(
        tf.DistilBertConfig(
            vocab_size=v, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=130, num_labels=3
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_encoders_with_and_without_token_types(family, hans, tmp_path):
    tokenizer = load_encoder("tiny-random").tokenizer
    typed = family in ("bert", "albert")
    if not typed:  # these know no segments
        special = {k: getattr(tokenizer, k) for k in ("cls_token", "sep_token", "pad_token", "unk_token")}
        tokenizer = tf.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, model_input_names=["input_ids", "attention_mask"], **special
        )
    torch.manual_seed(0)
    model = FAMILIES[family](len(tokenizer))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.config.id2label, model.config.label2id = dict(enumerate(NLI[::-1])), {n: i for i, n in enumerate(NLI[::-1])}
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    encoder = load_nli(str(tmp_path))
    tokens = tokenise(hans, encoder.tokenizer, 128)
    assert (tokens.types is not None) == typed
    result = evaluate_hans(encoder, hans, precision="fp32")
    assert len(result.rows) == 300 and result.rows["prediction"].isin([0, 1]).all()
    one = encoder.tokenizer(hans[7]["text"], hans[7]["text_pair"], return_tensors="pt", return_token_type_ids=typed)
    with torch.no_grad():
        alone = model.eval()(**one).logits.numpy()
    assert two_way(alone, NLI[::-1])[0] == result.rows["prediction"][7], (
        "as the checkpoint itself answers, in its own order"
    )


def test_what_is_too_long_for_the_encoder(hans, trained, tmp_path):
    long = hans.map(lambda row: {"text": row["text"] * 200})
    with pytest.raises(ParameterError, match="reads at most 512"):
        evaluate_hans(load_nli(str(trained)), long, max_length=1024)


# ---- the command


def test_the_command(trained, root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["hans", "--encoder", str(trained), "--data", str(root), "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "lexical_overlap" in told.out and "non-entailment" in told.out and "MNLI's dev set: accuracy" in told.err
    assert main(["hans", "--score", str(out / "predictions.txt"), "--data", str(root)]) == 0
    tables = [text.split("\n", 2)[2] for text in (told.out, capsys.readouterr().out)]
    assert tables[0] == tables[1]
    assert main(["hans", "--encoder", str(trained), "--data", str(root), "--out", str(out), "--examples", "60"]) == 0
    assert "60 of 300 pairs" in capsys.readouterr().out


def test_the_command_refuses(trained, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BERTVISION_QUIET", "1")
    head(copied(trained, tmp_path / "m"), [2, 1, 0], NLI)
    capsys.readouterr()
    assert main(["hans", "--encoder", str(tmp_path / "m"), "--data", str(root), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("bertvision: refused: accuracy 0.") and told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    for argv, words in (
        (["--encoder", "tiny-random"], "no trained head"),
        (["--score", str(tmp_path / "none.txt")], "none.txt cannot be read"),
    ):
        assert main(["hans", *argv, "--data", str(root)]) == 2
        assert words in capsys.readouterr().err
    for argv in ([], ["--encoder", "a", "--score", "b"]):
        with pytest.raises(SystemExit) as end:
            main(["hans", *argv])
        assert end.value.code == 2


# ---- real files


def test_every_real_pair_is_read(data_dir):
    data = load_task("hans", data_dir)
    for split in ("train", "validation"):
        rows = pd.DataFrame({c: data[split][c][:] for c in ("label", "heuristic", "subcase", "pairID")})
        assert len(rows) == 30_000 and rows["pairID"].is_unique
        assert (rows.groupby(["heuristic", "label"])["subcase"].nunique() == 5).all() and set(
            rows["subcase"].value_counts()
        ) == {1_000}
        assert rows["subcase"].nunique() == 30 and set(rows["heuristic"]) == set(HEURISTICS)
    assert set(hans_part(data["validation"], 6_000).to_pandas()["subcase"].value_counts()) == {200}


def test_constant_answers_to_the_real_pairs(data_dir, tmp_path):
    path = tmp_path / "yes.txt"
    path.write_text("pairID,gold_label\n" + "".join(f"ex{i},entailment\n" for i in range(30_000)))
    found = score_hans_file(data_dir / "HANS" / "heuristics_evaluation_set.txt", path)
    assert found.heuristics == dict.fromkeys(HEURISTICS, {"entailment": 1.0, "non-entailment": 0.0})
    assert found.metrics == {"accuracy": 0.5} and found.templates == {}, "the template column of this copy is NA"


def test_an_untrained_head_is_refused_on_real_mnli(data_dir):
    encoder = load_encoder("tiny-random", get_task("mnli"))
    dev = load_task("mnli", data_dir, splits=("validation_matched",))["validation_matched"]
    score = mnli_score(encoder, dev.select(range(2_000)))
    assert "chance" in chance_reason(*score) and isinstance(score, MnliScore)
