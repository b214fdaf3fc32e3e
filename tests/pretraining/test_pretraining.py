"""Pre-training in one process and in two, on a corpus that is generated here."""

import json
import subprocess
import sys

import numpy as np
import pytest
from launching import LAUNCH

from bertvision.core.errors import DataError
from bertvision.engine.grid import load_study
from bertvision.engine.plan import plan

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from bertvision.pretraining.batches import CorpusBatches
from bertvision.pretraining.corpus import encode_corpus, SPECIAL
from bertvision.pretraining.examples import SpecialTokens
from bertvision.pretraining.loop import pretrain, PretrainingRecipe
from bertvision.pretraining.objective import new_pretraining

rng, words = np.random.default_rng(0), ["the", "dog", "sleeps", "near", "old", "garden", "a", "cat"]
documents = [[" ".join(rng.choice(words, rng.integers(3, 12))) + "." for _ in range(200)] for _ in range(3)]
pairs = sys.argv[2] == "pairs"
net, tokenizer = new_pretraining([*SPECIAL, ".", *words], width=32, longest=48, dropout=0.0, pairs=pairs)
corpus, special = encode_corpus(documents, tokenizer), SpecialTokens.of(tokenizer)
reading = CorpusBatches(corpus.part([0, 1]), special, max_length=48, tokens=512, pairs=pairs)
held_out = CorpusBatches(corpus.part([2]), special, max_length=48, tokens=512, pairs=False)
recipe = PretrainingRecipe(steps=50, lr=2e-3, warmup=0.1, precision="fp32", log_every=1, evaluate=2, accumulate=2)
done = pretrain(net, tokenizer, reading, held_out, recipe, folder=sys.argv[1])
done.save(Path(sys.argv[1]) / "model")
if done.main:
    history = done.history.drop(columns=["seconds", "tokens_per_second"]).to_dict("list")
    (Path(sys.argv[1]) / "history.json").write_text(json.dumps(history))
"""


@pytest.fixture(scope="module", params=["pairs", "words"])
def histories(request, tmp_path_factory):
    """The same pre-training in one process and in two."""
    folder = tmp_path_factory.mktemp("pretraining")
    (folder / "some.py").write_text(SCRIPT)
    for name, command in (("one", [sys.executable]), ("two", [sys.executable, *LAUNCH])):
        (folder / name).mkdir()
        ended = subprocess.run(
            [*command, str(folder / "some.py"), str(folder / name), request.param],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
    return {name: json.loads((folder / name / "history.json").read_text()) for name in ("one", "two")}


def test_two_processes_learn_what_one_learns(histories):
    """With the same global batch the loss curve is the same, and every token is counted once."""
    one, two = histories["one"], histories["two"]
    assert len(one["step"]) == 50 and one["tokens"] == two["tokens"]
    for name in (n for n in one if n.startswith(("mlm_", "nsp_"))):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)
    assert one["mlm_loss"][-1] < one["mlm_loss"][0]
    np.testing.assert_allclose(
        [x for x in one["held_out_mlm_loss"] if x is not None and x == x],
        [x for x in two["held_out_mlm_loss"] if x is not None and x == x],
        atol=1e-4,
    )


def test_fine_tuning_from_a_pretraining_is_a_plan(tmp_path, monkeypatch):
    """Each start of pretrain-small gets the run of its own seed; a changed text is a changed run."""
    text = tmp_path / "book.txt"
    text.write_text("A cat sat. A dog ran.\n\nA bird flew away. Nobody knew why.\n")
    planned = lambda: plan(
        load_study("pretrain-small", {"pretrain.corpus": str(text)}, tasks=["toy-sentiment"], seeds=[0, 1]),
        out=tmp_path,
    )
    first = planned()
    assert first.job("untrained.toy-sentiment.s1").needs == ("pretrain.s1",)
    assert first.job("untrained.toy-sentiment.s1").parameters["checkpoint"] == "steps/0"
    text.write_text(text.read_text().replace("bird", "bat"))
    again = planned()
    for name in ("pretrain.s0", "pretrained.toy-sentiment.s0"):
        assert first.job(name).fingerprint != again.job(name).fingerprint
    monkeypatch.chdir(tmp_path)
    near = plan(
        load_study("pretrain-small", {"pretrain.corpus": "book.txt"}, tasks=["toy-sentiment"], seeds=[0, 1]),
        out=tmp_path,
    )
    assert (
        near.job("pretrain.s0").parameters["corpus"] == str(text)
        and near.job("pretrain.s0").fingerprint == again.job("pretrain.s0").fingerprint
    )
    text.unlink()
    with pytest.raises(DataError, match="book.txt: no such file or folder"):
        planned()
    told = plan(
        load_study("pretrain-small", {"pretrain.corpus": str(text)}, tasks=["toy-sentiment"], seeds=[0, 1]),
        out=tmp_path,
        inputs=False,
    )  # of finished runs one may tell without their text
    assert told.job("pretrained.toy-sentiment.s0").fingerprint != again.job("pretrained.toy-sentiment.s0").fingerprint
