"""The journal against the broker's books: what differs is shown in a table, and taken over where a user says so."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
import typer
from kite_stage import SYMBOLS, StageClock, Trader
from rehearsals import buy, rehearsal

from finsense.cli import reconcile as command
from finsense.cli.errors import guarded
from finsense.live.account_lock import AccountLock
from finsense.live.brokers.errors import BooksDiffer, Rejected
from finsense.live.desk_books import DeskBooks
from finsense.live.journal_reader import JournalReader
from finsense.live.reconcile import (
    Difference,
    OnlyReading,
    ReconcileError,
    Sketch,
    Strangers,
    accept,
    held_by_broker,
    table_text,
)
from finsense.live.rehearsal.purse import Holding
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.secrets import open_store


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as opened:
        opened.play(20)
        yield opened


@pytest.fixture
def trader(stage: Rehearsal, tmp_path: Path) -> Iterator[Trader]:
    one = Trader(stage, tmp_path).start()
    one.bar({"INFY": 10, "TCS": -4})
    one.bar()
    yield one
    one.end()


def take_over(trader: Trader, **prices_paise: int) -> list[Difference]:
    """What `--accept` does, in the process of the trader."""
    desk = trader.broker.desk

    def held() -> Any:
        return held_by_broker(trader.rest, SYMBOLS, "MIS")

    desk.read_book()
    strangers = Strangers(desk, SYMBOLS, "MIS", trader.alarm, held)
    return accept(desk, strangers, held, trader.stage.clock.now_ns(), prices_paise)


def lose(trader: Trader, symbol: str, shares: int) -> None:
    """The broker's books change and no trade of today says why, as after a night."""
    position = trader.stage.exchange.purse.positions[symbol, "MIS"]
    position.bought += shares - position.quantity


def test_a_difference_at_the_start_stops_with_a_table(trader: Trader) -> None:
    lose(trader, "INFY", 0)
    with pytest.raises(BooksDiffer) as raised:
        trader.again()
    assert str(raised.value).splitlines()[1:3] == [
        "symbol  journal  broker  difference  orders that are not ours",
        "INFY    +10      +0      -10         -",
    ]
    assert "no order was sent" in str(raised.value)


def test_what_no_trade_explains_needs_a_price_and_is_then_booked_and_marked(trader: Trader) -> None:
    lose(trader, "INFY", 0)
    with pytest.raises(BooksDiffer):
        trader.again()
    with pytest.raises(ReconcileError, match="no price for INFY: give one with --price INFY=RUPEES"):
        take_over(trader)
    assert [one.missing for one in take_over(trader, INFY=149_500)] == [-10]
    trader.again()
    (fill,) = trader.bar()["INFY"]
    assert (fill.quantity, fill.price_paise) == (-10, 149_500)
    assert trader.positions == {"INFY": 0, "TCS": -4} == trader.exchange
    marked = [event for event in trader.journal.events() if event.what == "adopted_shares"]
    assert [event.body["quantity"] for event in marked] == [-10]
    trader.again()
    assert trader.bar() == {}


def test_orders_of_others_come_with_their_trades(trader: Trader) -> None:
    trader.rest.place(buy("hand1", 3))
    with pytest.raises(BooksDiffer, match=r"INFY +\+10 +\+13 +\+3"):
        trader.again()
    assert take_over(trader) == []
    trader.again()
    fills = trader.bar()["INFY"]
    done = [one for one in trader.stage.exchange.executions if one.order.request.tag == "hand1"]
    assert [(one.quantity, one.price_paise) for one in fills] == [(one.shares, one.price_paise) for one in done]
    assert trader.positions == trader.exchange
    trader.bar({"INFY": -13})
    trader.bar()
    assert trader.exchange["INFY"] == 0
    trader.sound()


def test_an_order_of_others_that_works_must_be_cancelled_first(trader: Trader) -> None:
    trader.rest.place(buy("hand1", 3, kind="LIMIT", price_paise=140_000))
    with pytest.raises(ReconcileError, match=r"still work: INFY \(26"):
        take_over(trader)


def test_shares_of_earlier_days_count_in_delivery_alone(trader: Trader) -> None:
    trader.stage.exchange.purse.holdings["INFY"] = Holding(settled=5, unsettled=2)
    assert {symbol: one.quantity for symbol, one in held_by_broker(trader.rest, SYMBOLS, "MIS").items()} == {
        "INFY": 10,
        "TCS": -4,
    }
    assert {symbol: one.quantity for symbol, one in held_by_broker(trader.rest, SYMBOLS, "CNC").items()} == {
        "INFY": 7,
        "TCS": 0,
    }


def test_who_only_looks_writes_and_sends_nothing(trader: Trader) -> None:
    before = len(list(trader.journal.events()))
    with closing(JournalReader(trader.path)) as reader:
        books = DeskBooks(Sketch(reader), lambda: 0)
        books.note("", "adopted_shares", _shares())
        assert books.held("INFY") == 15
    looking = OnlyReading(trader.rest)
    with pytest.raises(Rejected):
        looking.place(buy())
    with pytest.raises(Rejected):
        looking.cancel("1")
    with pytest.raises(Rejected):
        looking.modify("1", buy())
    assert len(looking.orders()) == len(trader.stage.exchange.orders) == 2
    assert len(list(trader.journal.events())) == before


def test_the_table_lines_up() -> None:
    found = [Difference("INFY", 10, -3, 0, ("1", "2")), Difference("TATASTEEL", 0, 1_000, 0, ())]
    assert table_text(found) == (
        "symbol     journal  broker  difference  orders that are not ours\n"
        "INFY       +10      -3      -13         1, 2\n"
        "TATASTEEL  +0       +1000   +1000       -"
    )


@pytest.fixture
def setup(trader: Trader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A live setup on the rehearsal, with the journal that the trader wrote."""
    monkeypatch.setenv("FINSENSE_SECRETS", "file")
    monkeypatch.setenv("FINSENSE_PASSPHRASE", "a passphrase of the test")
    monkeypatch.setattr(command, "clock_of", lambda root: StageClock(trader.stage))
    home = tmp_path / "home"
    home.mkdir()
    open_store(home, None).set("main.kite.access_token", trader.token)
    path = tmp_path / "live.yaml"
    root = trader.stage.root
    path.write_text(
        f"name: test\naccount: main\nbundle: {tmp_path}\nsymbols: [TCS, INFY]\nhome: {home}\nfeed: {{kind: kite}}\n"
        f"broker: {{kind: kite, api_key: rehearsalkey, root: '{root}', stream_root: '{root.replace('http', 'ws')}', "
        "timeout_s: 0.5}\n"
    )
    trader.end()
    trader.path.rename(home / "test.live.db")
    trader.path, trader.records = home / "test.live.db", []
    return path


@pytest.fixture
def trader_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of a real session tells its rules."""
    original = Trader.__init__

    def made(self: Trader, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.identity = {"rules": json.dumps({"product": "intraday"})}

    monkeypatch.setattr(Trader, "__init__", made)


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(guarded(command.reconcile))
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("trader_identity")
class TestCommand:
    def test_books_that_agree(self, trader: Trader, setup: Path) -> None:
        done = run(str(setup))
        assert (done.exit_code, done.stdout) == (0, "the journal and the broker agree\n"), done.output

    def test_a_difference_is_shown_taken_over_and_gone(self, trader: Trader, setup: Path) -> None:
        lose(trader, "INFY", 4)
        shown = run(str(setup))
        assert shown.exit_code == 8, shown.output
        assert "INFY    +10      +4      -6          -" in shown.stdout
        assert "--accept" in shown.stdout
        taken = run(str(setup), "--accept", "--price", "INFY=1499.95", "--json")
        assert taken.exit_code == 0, taken.output
        said = json.loads(taken.stdout)
        assert (said["accepted"], said["differences"][0]["difference"]) == (True, -6)
        assert run(str(setup)).exit_code == 0
        with closing(JournalReader(trader.path)) as reader:
            (event,) = [event for event in reader.events() if event.what == "adopted_shares"]
            assert event.body["price_paise"] == 149_995
            assert reader.verify()

    def test_a_loop_that_runs_is_not_changed(self, trader: Trader, setup: Path) -> None:
        with AccountLock(setup.parent / "home", "live", {}):
            busy = run(str(setup), "--accept")
        assert busy.exit_code == 2
        assert "stop it before its books are changed" in busy.stderr

    @pytest.mark.parametrize("price", ["INFY", "INFY=x", "INFY=-1", "=5", "INFY=1.234", "INFY=nan"])
    def test_a_price_that_is_none(self, trader: Trader, setup: Path, price: str) -> None:
        wrong = run(str(setup), "--accept", "--price", price)
        assert wrong.exit_code == 2
        assert "SYMBOL=RUPEES" in wrong.stderr

    def test_a_dead_token_is_no_difference(self, trader: Trader, setup: Path) -> None:
        trader.stage.call(lambda: trader.stage.rest.access_tokens.clear())
        dead = run(str(setup))
        assert dead.exit_code == 7
        assert "finsense broker login" in dead.stderr

    def test_a_journal_that_is_not_there(self, trader: Trader, setup: Path) -> None:
        trader.path.unlink()
        assert run(str(setup)).exit_code == 1

    def test_paper_has_nothing_to_compare(self, trader: Trader, setup: Path) -> None:
        setup.write_text(setup.read_text().partition("broker:")[0].replace("kind: kite", "kind: yahoo"))
        assert run(str(setup)).exit_code == 3


def _shares() -> dict[str, Any]:
    return {
        "trade_id": "taken9",
        "order_id": "",
        "symbol": "INFY",
        "quantity": 5,
        "price_paise": 1,
        "time_ns": 1,
        "number": 9,
    }
