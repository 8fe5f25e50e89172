"""What the decision record says of a choice that came too late: what could be closed for it."""

import re
from pathlib import Path

from bundles import make_bundle, market, setting
from hypothesis import given
from hypothesis import strategies as st
from markets import orders_of

from finsense.account.capital import Capital, Holding, Terms, liquidation_order, suggest
from finsense.account.ranking import Signal, Weights
from finsense.account.remedies import explain_drops
from finsense.live.journal_reader import JournalReader
from finsense.live.paper_session import trade_on_paper
from finsense.state.span import split_history

NAMES = ["A", "B", "C", "D"]
SCORES = st.floats(0, 1)


def free(quantity: int, price_paise: int) -> int:
    return 0


@given(
    held=st.dictionaries(st.sampled_from(NAMES), st.tuples(SCORES, st.integers(1, 50)), min_size=1),
    better=SCORES,
    reason=st.sampled_from(["not enough cash", "number of positions"]),
)
def test_it_names_what_the_capital_command_would_close(
    held: dict[str, tuple[float, int]], better: float, reason: str
) -> None:
    holdings = tuple(Holding(name, shares, 10_000) for name, (_, shares) in held.items())
    signals = [Signal(name, 10_000, score, 0.01) for name, (score, _) in held.items()]
    weights, account = Weights(1.0, 0.0), Capital(0, holdings)
    weakest = liquidation_order(account, signals, weights)[0].symbol
    scores = {**{name: score for name, (score, _) in held.items()}, "NEW": better}
    told = explain_drops({"NEW": reason}, scores, {one.symbol: one.value_paise for one in holdings})["NEW"]
    assert told.startswith(f"{reason}: an earlier order of this bar came first; ")
    terms = Terms(cash_buffer=0.0, max_position_fraction=0.2, min_position_fraction=0.0001)
    suggestion = suggest(account, [*signals, Signal("NEW", 100, better, 0.01)], free, terms, weights)
    closed = [step.symbol for step in suggestion.steps if step.quantity < 0]
    if better > scores[weakest] + Terms.better_by:
        assert f"closing {weakest} (score" in told
        assert closed[:1] == [weakest]
    else:
        assert told.endswith("nothing held is weaker by 0.1")
        assert closed == []


def test_what_no_closing_would_mend_is_told_alone() -> None:
    said = explain_drops({"A": "orders of the bar", "B": "number of positions"}, {"A": 0.9, "B": 0.9}, {})
    assert said == {
        "A": "orders of the bar: an earlier order of this bar came first",
        "B": "number of positions: an earlier order of this bar came first; nothing held is weaker by 0.1",
    }


def test_the_journal_tells_it(tmp_path: Path) -> None:
    terms = setting(product="delivery", actions=orders_of("fraction", fraction=0.45), max_position=None)
    bundle = make_bundle(tmp_path / "bundle", terms)
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("DACB")]
    histories, trading = zip(*(split_history(bars, terms.state) for bars in markets), strict=True)
    run = trade_on_paper(bundle, terms, histories, trading, tmp_path / "journal.db")
    told = 0
    with JournalReader(tmp_path / "journal.db") as journal:
        for record in journal.records():
            rows = {row.symbol: row for row in record.rows}
            for row in (one for one in record.rows if one.refused):
                told += 1
                assert row.order_quantity == 0
                assert re.match(
                    "(not enough cash|nothing to order): an earlier order of this bar came first", row.refused
                )
                named = re.search(r"closing (\w+) \(score", row.refused)
                if named:
                    assert rows[named[1]].position > 0
                    assert rows[named[1]].order_quantity == 0
    assert told == sum(run.dropped.values()) > 0
    again = trade_on_paper(bundle, terms, histories, trading, tmp_path / "journal.db")
    assert again.dropped == run.dropped
