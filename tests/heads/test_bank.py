"""A bank of heads: alone or in company, stored or streamed, in one pass or several, a head comes out the same."""

import numpy as np
import pytest
import torch

from bertvision import load_encoder, load_task, split, subset
from bertvision.core.errors import ParameterError, TrainingError
from bertvision.data.batches import tokenise
from bertvision.heads.bank import Bank, forecast_memory
from bertvision.heads.heads import build_head, head_parameters
from bertvision.heads.poolers import LAYER_POOLERS, TOKEN_POOLERS, Mean, layer_pooler, token_pooler
from bertvision.heads.specs import HeadRecipe, parse_head
from bertvision.states.stream import Stream, extract

RECIPES = [
    HeadRecipe("adapter-8:mean", lr=1e-2, epochs=2, seed=0),
    HeadRecipe("adapter-8:mean", lr=3e-3, epochs=3, seed=1, patience=1),
    HeadRecipe("adapter-8:mean", lr=1e-2, epochs=1, seed=2),
    HeadRecipe("scalar-mix-norm:attention", lr=1e-2, epochs=2),
    HeadRecipe("adapter-8-skip-unshared:cls", lr=1e-2, epochs=2),
    HeadRecipe("conv-nxn:mean", lr=1e-2, epochs=1),
]


@pytest.fixture(scope="module")
def lab():
    """A task's three parts as token arrays, and an untrained encoder."""
    data = load_task("toy-sentiment")
    data.splits["train"] = subset(data["train"], 120, seed=0)
    parts, encoder = split(data), load_encoder("tiny-random")
    rows = {"train": parts.train, "selection": parts.selection, "validation": subset(parts.report["validation"], 40)}
    return data.task, encoder, {name: tokenise(r, encoder.tokenizer, 64) for name, r in rows.items()}


def streams(lab):
    task, encoder, tokens = lab
    made = {name: Stream(encoder, t, precision="fp32", task_name=task.name, split=name) for name, t in tokens.items()}
    return made.pop("train"), made.pop("selection"), made


def trained(lab, recipes=RECIPES, states=None, **given):
    train, selection, report = states or streams(lab)
    return Bank(recipes, lab[0], train.layers, train.width, **given).fit(train, selection, report)


def test_in_company_as_alone(lab):
    together = trained(lab, group=3)
    for i, recipe in enumerate(RECIPES):
        alone = trained(lab, [recipe])
        for name in alone.logits:
            np.testing.assert_allclose(together.logits[name][i], alone.logits[name][0], atol=2e-4)
        assert together.best_steps[i] == alone.best_steps[0]


def test_stored_as_streamed(lab, tmp_path):
    task, encoder, tokens = lab
    stored = {
        n: extract(encoder, t, tmp_path / f"{n}.h5", dtype="fp32", precision="fp32", task=task.name, split=n)
        for n, t in tokens.items()
    }
    one = trained(lab, group=1)
    other = trained(lab, states=(stored.pop("train"), stored.pop("selection"), stored), group=1)
    for i in range(len(RECIPES)):
        np.testing.assert_allclose(one.logits["validation"][i], other.logits["validation"][i], atol=1e-3)


def test_several_passes_as_one(lab):
    one, several = trained(lab, group=1), trained(lab, group=1, memory=1)
    assert (one.passes, several.passes) == (1, len(RECIPES))
    for a, b in zip(one.logits["validation"], several.logits["validation"]):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_head_stops_by_its_own_rule(lab):
    history = trained(lab).history.groupby("head").size()
    assert history[2] == 1 and history[0] == 2  # an epoch each, as the recipes say
    assert 2 <= history[1] <= 3  # three, or stopped by its patience of one


def test_choice_looks_at_the_selection_part_alone(lab):
    result = trained(lab)
    result.metrics[2]["selection"]["accuracy"], result.metrics[2]["validation"]["accuracy"] = 2.0, -1.0
    assert result.best("adapter-8:mean") == 2
    assert result.chosen() == [2, 3, 4, 5]


def test_regression(lab):
    data = load_task("toy-similarity")
    data.splits["train"] = subset(data["train"], 100, seed=0)
    parts, encoder = split(data), lab[1]
    train, selection = (Stream(encoder, tokenise(r, encoder.tokenizer, 64)) for r in (parts.train, parts.selection))
    result = Bank([HeadRecipe("adapter-8:mean", lr=1e-2, epochs=2)], data.task, train.layers, train.width).fit(
        train, selection
    )
    assert result.logits["selection"][0].shape == (10, 1) and "pearson" in result.metrics[0]["selection"]


def test_refusals(lab):
    train, selection, _ = streams(lab)
    with pytest.raises(ParameterError, match="layer = 3: expected 0 to 2"):
        Bank([HeadRecipe("layer-3:cls")], lab[0], 3, 64)
    with pytest.raises(ParameterError, match="size 70000"):
        HeadRecipe("adapter-70000:cls")
    with pytest.raises(ParameterError, match="flatten head needs"):
        Bank([HeadRecipe("adapter-8:flatten")], lab[0], 3, 64)
    with pytest.raises(TrainingError, match="the bank was made for 4"):
        Bank(RECIPES[:1], lab[0], 4, 64).fit(train, selection)
    other = load_task("toy-entailment")
    rows = Stream(lab[1], tokenise(subset(other["train"], 20), lab[1].tokenizer, 64), task_name="toy-entailment")
    with pytest.raises(TrainingError, match="selection holds labels of toy-entailment, train of toy-sentiment"):
        Bank(RECIPES[:1], lab[0], 3, 64).fit(train, rows)


@pytest.fixture
def own_poolers():
    """A pooler over layers and one over tokens, registered for one test: all that a new head takes."""

    @layer_pooler("top", number="most", meaning="the number of layers", limits=(1, 9), options={"max": {"by": "max"}})
    class Top(torch.nn.Module):
        "The mean or maximum of the last layers, scaled by one learned weight."

        def __init__(self, layers, width, most, by="mean"):
            super().__init__()
            self.most, self.by, self.features = most, by, width
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            last = x.values[:, -self.most :]
            return x.like(self.scale * (last.amax(1) if self.by == "max" else last.mean(1)))

    @token_pooler("sum")
    class Sum(Mean):
        "The sum of the real tokens."

        def forward(self, x):
            return x.mean().values * x.lengths[:, None]

    yield Top, Sum
    del LAYER_POOLERS["top"], TOKEN_POOLERS["sum"]


def test_a_new_head_takes_one_entry(lab, own_poolers):
    Top, Sum = own_poolers
    assert str(parse_head("top-2-max:sum:8")) == "top-2-max:sum:8"
    head = build_head("top-2-max:sum", 3, 64, 2)
    assert (type(head.pooler), head.pooler.most, head.pooler.by, type(head.tokens)) == (Top, 2, "max", Sum)
    assert head_parameters("top-2:sum", 3, 64, 2) == 1 + 64 * 2 + 2
    new = [HeadRecipe("top-2-max:sum", lr=1e-2, epochs=2, seed=seed) for seed in (0, 1)]
    assert forecast_memory(new, 3, 64, 2) == [20 * 131] * 2
    together, before = trained(lab, RECIPES + new, group=2), trained(lab, group=2)
    for old, same in zip(before.logits["validation"], together.logits["validation"]):
        np.testing.assert_array_equal(old, same)
    alone = trained(lab, new[1:])
    np.testing.assert_allclose(together.logits["validation"][-1], alone.logits["validation"][0], atol=2e-4)
    assert "top-2-max:sum" in set(together.table()["head"])


@pytest.mark.parametrize(
    "name, words",
    [
        ("tpo-2:sum", "did you mean 'top'"),
        ("top-2:summ", "did you mean 'sum'"),
        ("last-1:most", "expected one of cls, mean, attention, flatten, each, sum"),
        ("some:cls", "adapter, conv-1xn, conv-nxn, top"),
        ("top:sum", "the number of layers is missing"),
        ("top-10:sum", "most 10, expected 1 to 9"),
        ("top-2-min:sum", "top takes max"),
    ],
)
def test_messages_know_a_new_head(own_poolers, name, words):
    with pytest.raises(ParameterError) as error:
        parse_head(name)
    assert words in str(error.value)


def test_a_head_that_was_removed_is_unknown_again():
    with pytest.raises(ParameterError, match="unknown layer pooling 'top-2'"):
        parse_head("top-2:cls")


def test_shares_of_mixes_of_unlike_length(lab):
    result = trained(
        lab, [HeadRecipe(name, epochs=1) for name in ("scalar-mix:cls", "scalar-mix-to-1:cls", "mean:cls")]
    )
    shares = result.layer_shares([0, 1, 2])
    assert shares.shape == (3, 2) and shares.iloc[2, 1] == 0
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-6)
