"""Cash goes to the best signals, and nothing is closed but for a better one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from finsense.account.capital import Capital, Holding, Terms, liquidation_order, rebalance, suggest
from finsense.account.ranking import CapitalError, Signal, Weights, rank, score
from finsense.cli.capital import capital
from finsense.cli.errors import guarded

NAMES = ["A", "B", "C", "D", "E", "F", "G"]


def charges(quantity: int, price_paise: int) -> int:
    return abs(quantity) * price_paise // 1000 + 500


signals_of = st.lists(
    st.builds(
        Signal,
        st.sampled_from(NAMES),
        st.integers(100, 500_000),
        st.floats(0, 1),
        st.one_of(st.none(), st.floats(-0.5, 0.5)),
    ),
    min_size=1,
    unique_by=lambda one: one.symbol,
)
accounts = st.builds(
    Capital,
    st.integers(100_000, 10**8),
    st.lists(
        st.builds(Holding, st.sampled_from(NAMES), st.integers(1, 500), st.integers(100, 500_000)),
        max_size=5,
        unique_by=lambda one: one.symbol,
    ).map(tuple),
)
terms_of = st.builds(
    Terms,
    cash_buffer=st.floats(0, 0.5),
    max_position_fraction=st.floats(0.2, 0.6),
    min_position_fraction=st.floats(0.01, 0.2),
    max_positions=st.integers(1, 6),
    better_by=st.floats(0, 0.5),
)


def priced(account: Capital, signals: list[Signal]) -> list[Signal]:
    """The signals at the prices of the positions."""
    prices = {one.symbol: one.price_paise for one in account.holdings}
    return [one._replace(price_paise=prices.get(one.symbol, one.price_paise)) for one in signals]


def test_half_confidence_and_half_performance() -> None:
    # 0.5 x 0.8 + 0.5 x (0.05 / 0.10)
    assert score(Signal("A", 100, 0.8, 0.05), Weights()) == pytest.approx(0.65)
    assert score(Signal("A", 100, 0.8, 0.5), Weights()) == pytest.approx(0.9)
    assert score(Signal("A", 100, 0.8, None), Weights()) == pytest.approx(0.4)
    assert score(Signal("A", 100, 0.8, 0.05), Weights(3, 1, 0.05)) == pytest.approx(0.85)


def test_only_positive_momentum_takes_cash() -> None:
    ranked = rank(
        [Signal("A", 1, 1.0, -0.1), Signal("B", 1, 0.1, 0.01), Signal("C", 1, 1.0, None), Signal("D", 1, 1, 0)]
    )
    assert [one.symbol for one in ranked] == ["B", "A", "C", "D"]
    assert [bool(one.refused) for one in ranked] == [False, True, True, True]


@given(signals=signals_of, more=st.floats(0, 1))
def test_more_confidence_never_lowers_a_rank_and_order_of_input_is_nothing(signals: list[Signal], more: float) -> None:
    ranked = [one.symbol for one in rank(signals)]
    assert ranked == [one.symbol for one in rank(signals[::-1])]
    first = signals[0]
    better = first._replace(confidence=min(first.confidence + more, 1.0))
    again = [one.symbol for one in rank([better, *signals[1:]])]
    assert again.index(first.symbol) <= ranked.index(first.symbol)
    # Others keep their order among themselves.
    assert [name for name in again if name != first.symbol] == [name for name in ranked if name != first.symbol]


@given(account=accounts, signals=signals_of)
def test_the_weakest_is_closed_first(account: Capital, signals: list[Signal]) -> None:
    order = [one.symbol for one in liquidation_order(account, signals)]
    assert sorted(order) == sorted(one.symbol for one in account.holdings)
    ranked = [one.symbol for one in rank(signals) if one.symbol in order]
    by_score = {one.symbol: (not one.refused, one.score) for one in rank(signals)}
    known = [name for name in order if name in by_score]
    # First those without a signal, then the ranking upside down (but for the order of equals).
    assert order == [name for name in order if name not in by_score] + known
    assert [by_score[name] for name in known] == [by_score[name] for name in ranked[::-1]]


@given(account=accounts, signals=signals_of, terms=terms_of)
def test_a_suggestion_can_be_carried_out(account: Capital, signals: list[Signal], terms: Terms) -> None:
    signals = priced(account, signals)
    suggestion = suggest(account, signals, charges, terms)
    scores = {one.symbol: one for one in rank(signals)}
    free, held = suggestion.free_paise, {one.symbol for one in account.holdings}
    assert free == account.free_paise(terms.cash_buffer)
    weak: list[str] = []
    for step in suggestion.steps:
        assert step.charges_paise == charges(step.quantity, step.price_paise)
        free -= step.quantity * step.price_paise + step.charges_paise
        if step.quantity < 0:
            held.remove(step.symbol)
            weak.append(step.symbol)
            continue
        value = step.quantity * step.price_paise
        assert free >= 0
        assert not scores[step.symbol].refused
        assert terms.min_position_fraction * account.equity_paise <= value
        assert value <= terms.max_position_fraction * account.equity_paise
        held.add(step.symbol)
        assert len(held) <= max(terms.max_positions, len(account.holdings))
        # What was closed for it is weaker by what was asked.
        for name in weak:
            lost = scores[name].score if name in scores else 0.0
            assert lost + terms.better_by < scores[step.symbol].score
        weak = []
    assert not weak, "nothing is closed for nothing"
    assert free == suggestion.free_after_paise
    assert suggest(account, signals[::-1], charges, terms) == suggestion
    opened = {step.symbol for step in suggestion.steps if step.quantity > 0}
    before = {one.symbol for one in account.holdings}
    assert opened | set(suggestion.left_out) == {one.symbol for one in signals if one.symbol not in before}


@given(account=accounts, signals=signals_of, terms=terms_of)
def test_closing_asks_for_more_the_more_better_it_must_be(
    account: Capital, signals: list[Signal], terms: Terms
) -> None:
    signals = priced(account, signals)
    never = Terms(terms.cash_buffer, terms.max_position_fraction, terms.min_position_fraction, terms.max_positions, 1.0)
    assert all(step.quantity > 0 for step in suggest(account, signals, charges, never).steps)


@given(account=accounts, signals=signals_of, terms=terms_of)
def test_a_rebalanced_account_keeps_the_terms(account: Capital, signals: list[Signal], terms: Terms) -> None:
    signals = priced(account, signals)
    changes = rebalance(account, signals, terms)
    equity = account.equity_paise
    assert sum(change.target_paise for change in changes) <= (1 - terms.cash_buffer) * equity * (1 + 1e-12)
    assert all(change.target_paise <= terms.max_position_fraction * equity for change in changes)
    assert sum(change.target_paise > 0 for change in changes) <= terms.max_positions
    prices = {one.symbol: one.price_paise for one in signals} | {
        one.symbol: one.price_paise for one in account.holdings
    }
    for change in changes:
        worth = change.value_paise + change.quantity * prices[change.symbol]
        assert worth <= max(change.target_paise, change.value_paise)
        assert change.target_paise or worth == 0


def test_a_short_position_frees_cash_when_it_is_closed() -> None:
    # 1,000 rupees were there; the sale of 100 rupees lies in the cash, and twice as much is tied up.
    account = Capital(110_000, (Holding("A", -10, 1_000),))
    assert account.equity_paise == 100_000
    assert account.free_paise(0.0) == 90_000
    found = suggest(account, [Signal("B", 1_000, 1.0, 0.2)], lambda quantity, price: 0, Terms(0, 1.0, 0.95, 1))
    assert [(step.symbol, step.quantity) for step in found.steps] == [("A", 10), ("B", 100)]
    assert found.free_after_paise == 0


def test_a_size_of_its_own_is_kept() -> None:
    account = Capital(1_000_000, ())
    signals = [Signal("A", 1_000, 1.0, 0.2), Signal("B", 1_000, 0.9, 0.2)]
    found = suggest(account, signals, charges, Terms(0.0), shares={"A": 0.1, "B": 0.0})
    assert [(step.symbol, step.quantity) for step in found.steps] == [("A", 100)]
    assert found.left_out["B"].startswith("a position of its size is worth less")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: rank([Signal("A", 1, 0.5, 0.1)] * 2),
        lambda: rank([Signal("A", 1, 1.5, 0.1)]),
        lambda: rank([Signal("A", 1, 0.5, float("nan"))]),
        lambda: rank([Signal("A", 0, 0.5, 0.1)]),
        lambda: Weights(0, 0),
        lambda: Weights(-1, 2),
        lambda: Terms(min_position_fraction=0.5, max_position_fraction=0.3),
        lambda: Terms(max_positions=0),
        lambda: Capital(1, (Holding("A", 0, 100),)),
        lambda: Capital(1, (Holding("A", 1, 100), Holding("A", 2, 100))),
        lambda: suggest(Capital(-1000, ()), [Signal("A", 1, 0.5, 0.1)], charges),
        lambda: rebalance(Capital(0, ()), [Signal("A", 1, 0.5, 0.1)]),
    ],
)
def test_contradictions_are_refused(wrong: Any) -> None:
    with pytest.raises(CapitalError):
        wrong()


FILE = """\
date: 2026-11-20
cash: 12000.50
positions:
  - {symbol: INFY, quantity: 30, price: 1501.25}
  - {symbol: SBIN, quantity: 20, price: 812.40}
signals:
  - {symbol: INFY, confidence: 0.55, momentum: 0.01}
  - {symbol: SBIN, confidence: 0.40, momentum: -0.02}
  - {symbol: TCS, confidence: 0.81, momentum: 0.06, price: 3120.00}
  - {symbol: ITC, confidence: 0.99, momentum: -0.01, price: 420.00}
"""


def run(tmp_path: Path, text: str, *options: str) -> Any:
    file = tmp_path / "capital.yaml"
    file.write_text(text)
    app = typer.Typer()
    app.command()(guarded(capital))
    return CliRunner().invoke(app, [str(file), *options])


def test_the_command_tells_what_to_close(tmp_path: Path) -> None:
    done = run(tmp_path, FILE, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["equity_paise"] == 1_200_050 + 30 * 150_125 + 20 * 81_240
    assert said["depleted"]
    assert [one["symbol"] for one in said["ranking"]] == ["TCS", "INFY", "ITC", "SBIN"]
    assert [one["symbol"] for one in said["liquidation_order"]] == ["SBIN", "INFY"]
    # The fee of the depository (15.34 with GST) is part of what the sale costs.
    assert [(one["symbol"], one["quantity"]) for one in said["steps"]] == [("SBIN", -20), ("TCS", 6)]
    assert said["steps"][0]["charges_paise"] == 3_220
    assert list(said["left_out"]) == ["ITC"]
    assert {one["symbol"]: one["quantity"] for one in said["rebalance"]} == {"INFY": -17, "SBIN": -20, "TCS": 7}
    shown = run(tmp_path, FILE)
    for words in ("Ranking", "Close first", "sell SBIN", "buy TCS", "ITC: left out", "Rebalancing"):
        assert words in shown.stdout


def test_json_is_read_too_and_values_can_be_set(tmp_path: Path) -> None:
    as_json = json.dumps(
        {
            "date": "2026-11-20",
            "cash": 100000,
            "signals": [{"symbol": "TCS", "confidence": 0.8, "momentum": 0.1, "price": 100}],
        }
    )
    said = json.loads(run(tmp_path, as_json, "--json", "--set", "max_position_fraction=0.5").stdout)
    assert said["steps"][0]["quantity"] == 500
    assert not said["depleted"]


def test_trips_tell_momentum_and_kelly(tmp_path: Path) -> None:
    rows = ", ".join(
        f"{{exit_day: 2026-11-{day % 18 + 1:02}, net_return: {0.02 if day % 2 else -0.015}, out_of_sample: true}}"
        for day in range(30)
    )
    text = (
        "date: 2026-11-20\ncash: 100000\nsizing: {kelly_fraction: 0.01}\nsignals:\n"
        f"  - {{symbol: TCS, confidence: 0.8, price: 100, trips: [{rows}]}}\n"
    )
    said = json.loads(run(tmp_path, text, "--json").stdout)
    # p/a - q/b = 0.5/0.015 - 0.5/0.02 = 8.33; a hundredth of it is 8.3 % of the equity.
    assert said["steps"][0]["quantity"] == 83
    scaled = run(tmp_path, text, "--json", "--set", "sizing.peak=105000", "--set", "sizing.max_drawdown=0.15")
    assert json.loads(scaled.stdout)["steps"][0]["quantity"] < 83
    seen = run(tmp_path, text.replace("out_of_sample: true", "out_of_sample: false", 1), "--json")
    assert seen.exit_code == 4
    assert "trained on" in seen.stderr


@pytest.mark.parametrize(
    ("old", "new", "exit_code", "words"),
    [
        ("cash: 12000.50", "cash: 12000.505", 3, "capital.yaml:2"),
        ("cash: 12000.50", "cahs: 1", 3, "did you mean `cash`"),
        ("confidence: 0.55", "confidence: 55", 3, "capital.yaml:7"),
        (", price: 3120.00", "", 4, "TCS: expected one price"),
        ("quantity: 30", "quantity: 0", 3, "one share or more"),
        (
            "momentum: 0.06",
            "momentum: 0.06, trips: [{exit_day: 2026-11-01, net_return: 0.1, out_of_sample: true}]",
            3,
            "not both",
        ),
        ("symbol: SBIN, quantity", "symbol: INFY, quantity", 4, "each symbol once"),
    ],
)
def test_a_wrong_file_says_where(tmp_path: Path, old: str, new: str, exit_code: int, words: str) -> None:
    done = run(tmp_path, FILE.replace(old, new))
    assert done.exit_code == exit_code, done.output
    assert words in re.sub(r"\s+", " ", done.stderr)


def test_a_position_needs_no_signal(tmp_path: Path) -> None:
    text = FILE.replace("  - {symbol: SBIN, confidence: 0.40, momentum: -0.02}\n", "")
    said = json.loads(run(tmp_path, text, "--json").stdout)
    assert said["liquidation_order"][0] == {"symbol": "SBIN", "score": 0.0, "refused": "no signal"}
