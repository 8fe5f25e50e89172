"""The end of a day: a good one is quiet, and each thing that may be wrong with it is told."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kite_stage import Trader
from markets import small_spec
from rehearsals import DAY, rehearsal

from finsense.account.rules import AccountRules
from finsense.account.session import Session
from finsense.live.day_end import DayEnd, day_end
from finsense.live.journal_format import MomentRecord
from finsense.live.order_style import OrderStyle
from finsense.live.rehearsal.server import Rehearsal
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument

CHARGES = ChargeRules()
BALANCE = 10_000_000


class Account:
    """The real account of one symbol, which books what the broker gives."""

    def __init__(self, trader: Trader, product: str) -> None:
        size = {"scheme": "orders", "size": {"kind": "shares", "shares": 10}}
        rules = AccountRules.model_validate({"balance": BALANCE // 100, "product": product, "actions": size})
        self.session = Session(instrument("INFY"), "5m", small_spec(), rules, CHARGES)
        self.trader, self.product = trader, "MIS" if product == "intraday" else "CNC"
        self.records: list[MomentRecord] = []

    def bar(self, shares: int = 0) -> None:
        fills = self.trader.bar({"INFY": shares} if shares else {})
        self.session.settle(fills.get("INFY", []))
        account = self.session.account
        moment = self.trader.records[-1][0]
        books = account["cash_paise"].item(), account["equity_paise"].item()
        self.records.append(MomentRecord(len(self.records), moment, (), fills, *books))

    def end(self, date: dt.date = DAY) -> DayEnd:
        return day_end(
            self.trader.rest,
            self.trader.broker.desk.books,
            self.records,
            date,
            CHARGES,
            product=self.product,
            opening_cash_paise=BALANCE,
            alarm=self.trader.alarm,
        )


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as opened:
        opened.play(20)
        yield opened


@pytest.fixture
def account(stage: Rehearsal, tmp_path: Path) -> Iterator[Account]:
    trader = Trader(stage, tmp_path).start()
    yield Account(trader, "intraday")
    trader.end()


def trade(account: Account) -> None:
    """Several orders, some in parts, flat at the end."""
    for shares in (700, -300, 250, -650, 0):
        account.bar(shares)
        account.trader.stage.play(10)


def test_a_good_day_agrees_to_the_paisa_and_within_the_notes_rounding(account: Account) -> None:
    trade(account)
    found = account.end()
    assert found.problems == ()
    assert account.trader.alarms == []
    assert (found.orders, found.unbooked) == (4, 0)
    assert found.trades == len(account.trader.stage.exchange.executions) > 4
    (charges,) = found.charges
    assert charges.account_paise == found.charged_paise == account.session.account["charges_paise"].item()
    assert charges.bound_paise is not None
    assert abs(charges.account_paise - charges.note_paise) <= charges.bound_paise < 200
    assert found.summary()["charges"][0]["note_paise"] == charges.note_paise
    assert "WRONG" not in found.text()
    assert f"{charges.note_paise / 100:.2f}" in found.text()


def test_delivery_pays_the_depository_once(stage: Rehearsal, tmp_path: Path) -> None:
    trader = Trader(stage, tmp_path, style=OrderStyle("CNC"))
    account = Account(trader, "delivery")
    trader.start()
    account.bar(60)
    account.bar()
    found = account.end()
    assert found.problems == ()
    assert found.charges[0].note_paise - found.charges[0].account_paise <= (found.charges[0].bound_paise or 0)
    account.bar(-20)
    account.bar(-40)
    account.bar()
    sold = account.end()
    assert sold.problems == ()
    assert sold.charges[0].account_paise == account.session.account["charges_paise"].item()
    # Bought and sold on one day in delivery: the note taxes it as intraday.
    assert sold.charges[0].bound_paise is None
    trader.end()


def test_what_the_account_has_not_booked_yet_is_counted(account: Account) -> None:
    account.bar(10)
    account.trader.broker.desk.read_book()
    account.trader.broker.desk.agree()
    found = account.end()
    assert (found.unbooked, found.charged_paise) == (len(account.trader.stage.exchange.executions), 0)
    assert found.problems == ()


def test_an_order_that_is_not_over_is_told(account: Account) -> None:
    account.bar(10)
    account.bar()
    account.trader.broker.protect({"INFY": 140_000})
    found = account.end()
    assert len(found.problems) == 1
    assert "is not over" in found.problems[0]
    assert account.trader.alarms == ["day_end"]
    assert "WRONG: order 26" in found.text()


def test_a_trade_that_we_never_heard_of_is_told(account: Account) -> None:
    """As on 12 October 2020: an order that was cancelled filled an hour later."""
    account.bar(10)
    account.bar()
    exchange = account.trader.stage.exchange
    account.trader.broker.protect({"INFY": 140_000})
    account.trader.broker.protect({})
    cancelled = exchange.orders[1]
    assert cancelled.status == "CANCELLED"
    account.trader.stage.call(lambda: exchange.fill(cancelled, 5, 150_000))
    found = account.end()
    assert any("the journal has None, the broker ('INFY', -5, 150000)" in problem for problem in found.problems)


def test_a_trade_whose_price_changed_is_told(account: Account) -> None:
    account.bar(10)
    account.bar()
    executions = account.trader.stage.exchange.executions
    object.__setattr__(executions[0], "price_paise", executions[0].price_paise + 10)
    (problem, *_) = account.end().problems
    assert executions[0].trade_id in problem


def test_charges_that_are_not_those_of_the_tariff_are_told(account: Account) -> None:
    trade(account)
    last = account.records[-1]
    account.records[-1] = last._replace(cash_paise=last.cash_paise - 1)
    (problem,) = account.end().problems
    assert "were charged" in problem


def test_a_fill_that_no_trade_explains_is_told(account: Account) -> None:
    trade(account)
    last = account.records[-1]
    (fill, *rest) = last.fills["INFY"]
    account.records[-1] = last._replace(fills={"INFY": [fill, fill, *rest]})
    assert any("no trade explains" in problem for problem in account.end().problems)
