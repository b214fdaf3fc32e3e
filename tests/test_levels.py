"""How often the rule is wrong: the committed table of simulated studies, its long version, and real runs of one recipe."""

from pathlib import Path

import pandas as pd
import pytest

from bertvision.core.errors import DataError, ParameterError
from bertvision.metrics.levels import (
    EXAMPLES,
    KINDS,
    METRICS,
    SEEDS,
    main,
    settings,
    simulate,
)

TABLE = Path(__file__).parents[1] / "outputs" / "levels" / "levels.csv"
KIND = ["metric", "examples", "kind", "sd", "effect"]


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip("outputs/levels/levels.csv: the long table was not run")
    return pd.read_csv(TABLE)


def test_the_committed_table_has_every_kind_of_study(table):
    null = table[table["effect"] == 0]
    assert null["studies"].min() >= 5000
    assert len(null.drop_duplicates(KIND)) == len(settings()) == 72
    assert (
        set(null["metric"]) == set(METRICS)
        and set(null["examples"]) == set(EXAMPLES)
        and set(null["kind"]) == set(KINDS)
    )
    assert set(null["seeds"]) == set(SEEDS) and set(null["comparisons"]) == {1, 12}
    assert not table.duplicated([*KIND, "seeds", "comparisons", "rule"]).any()


def test_the_rule_holds_its_level_in_every_cell_of_the_committed_table(table):
    null = table[(table["effect"] == 0) & (table["rule"] == "both")]
    assert len(null) == 72 * 3 * 2
    assert null["low_99"].max() <= 0.05
    assert (
        table[(table["effect"] == 0) & (table["rule"] == "examples")]["low_99"].max() > 0.3
    )  # a rule that does not hold is seen


@pytest.mark.long
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind, sd", [("alike", 0.0), ("alike", 2.0), ("items", 4.5), ("unequal", 2.0)])
def test_the_rule_holds_its_level_in_studies_that_are_drawn_anew(metric, kind, sd):
    drawn = simulate(metric, 277, kind, sd, studies=5000, seed=1)
    assert drawn[drawn["rule"] == "both"]["low_99"].max() <= 0.05


def test_the_long_table_goes_on_where_it_was_cut_off(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bertvision.metrics.levels.EXAMPLES", (20,))
    monkeypatch.setattr("bertvision.metrics.levels.METRICS", ("accuracy",))
    out = tmp_path / "levels.csv"
    args = ["--studies", "3", "--power", "1", "--out", str(out)]
    main(args)
    whole = out.read_bytes()
    assert len(capsys.readouterr().out.splitlines()) == 8 + 16
    rows = pd.read_csv(out)
    out.write_text(rows[rows["kind"] != "items"].to_csv(index=False, float_format="%.5f"))
    main(args)
    assert out.read_bytes() == whole and len(capsys.readouterr().out.splitlines()) == 3 + 6
    main(args)
    assert out.read_bytes() == whole and not capsys.readouterr().out
    with pytest.raises(
        ParameterError, match="levels.csv was made with 3, 1 studies per setting, not 4 and 1: give the same --studies"
    ):
        main(["--studies", "4", *args[2:]])
    out.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="levels.csv has the columns a, b: expected a table of this command"):
        main(args)
