"""What the users of other systems suffer from when they trade live, P8 to P13, and which test holds it off."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_crash_law
import test_gate
import test_kite_stream
import test_login
import test_reconcile
from bundles import make_bundle, market, setting

from finsense.account.rules import AccountRules
from finsense.config.live import LiveSetup
from finsense.live.brokers import Broker
from finsense.live.clock import FastClock, WallClock
from finsense.live.feeds import Feed
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.gate import LastTick
from finsense.live.journal import Journal
from finsense.live.last_wall import Stopping
from finsense.live.orders import OrderError, OrderRequest
from finsense.live.start import trade
from finsense.market.bars import Bar, Bars
from finsense.state.span import split_history

PAINS: dict[str, tuple[Callable[..., None], ...]] = {
    "P8: orders are lost or doubled on network faults": (
        test_crash_law.test_fifty_kills_lose_nothing_and_double_nothing,
    ),
    "P9: a restart invents or forgets positions": (
        test_crash_law.test_fifty_kills_lose_nothing_and_double_nothing,
        test_reconcile.test_a_difference_at_the_start_stops_with_a_table,
    ),
    "P10: a dead tick socket looks alive": (test_kite_stream.test_a_silent_connection_is_dropped_and_opened_again,),
    "P11: the token expires, and the loop hammers a dead one": (
        test_login.test_a_loop_waits_for_a_new_login_and_never_tries_the_dead_token,
        test_kite_stream.test_a_server_that_fails_is_tried_again_and_a_refused_token_is_not,
    ),
    "P12: rules of April 2026: address, rates, protection": (
        test_gate.test_the_rate_of_a_second_and_what_a_restart_remembers,
    ),
}


@pytest.mark.parametrize("pain", PAINS)
def test_p8_to_p12_are_held_off_by_a_test_of_the_gate(pain: str) -> None:
    """Collected by its own file, and by every run: neither skipped nor slow."""
    for one in PAINS[pain]:
        marks = {mark.name for mark in getattr(one, "pytestmark", [])}
        assert not marks & {"skip", "skipif", "slow"}, one.__name__


@pytest.mark.parametrize("kind", ["MARKET", "SL-M"])
def test_p12_no_order_leaves_without_market_protection(kind: Any) -> None:
    """Since 1 April 2026 such orders are refused; a request without protection cannot even be made."""
    trigger = {"trigger_paise": 99_000} if kind == "SL-M" else {}
    for protection in (0, None):
        with pytest.raises(OrderError, match="market_protection"):
            OrderRequest("tag", "INFY", "BUY", 1, kind, "MIS", market_protection=protection, **trigger)


def test_p13_the_paper_broker_knows_no_network() -> None:
    """All that a paper broker is made of loads without any client of a network."""
    code = (
        "import sys; import finsense.live.brokers.paper, finsense.live.loop, finsense.live.paper_session;"
        "clients = ('kiteconnect', 'requests', 'websockets', 'aiohttp', 'yfinance');"
        "print([name for name in clients if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


class _Recorded:
    """A source over recorded bars that would betray anyone who asks it for a broker."""

    def __init__(self, history: Bars, trading: Bars) -> None:
        self._history, self._trading = history, trading
        self.asked_for_a_broker = False

    @property
    def clock(self) -> WallClock:
        return FastClock(int(self._trading.time_ns[-1]) + 300_000_000_000, 0.0)

    def history(self) -> Mapping[str, Sequence[Bar]]:
        return {"SIM": list(self._history)}

    def feed(self, after_ns: int) -> Feed:
        return ReplayFeed([self._trading])

    def broker(
        self,
        journal: Journal,
        identity: str,
        rules: AccountRules,
        alarm: Callable[..., None],
        look: Callable[[], Any],
    ) -> Broker:
        self.asked_for_a_broker = True
        raise AssertionError("a session on paper asked for a real broker")

    def last_tick(self, symbol: str) -> LastTick | None:
        return None

    def renew(self, look: Callable[[], Any]) -> None:
        raise AssertionError("nothing to renew")

    def end_day(self, journal: Journal, rules: AccountRules, alarm: Callable[..., None]) -> None:
        return None

    def close(self) -> None:
        return None


@pytest.mark.parametrize("broker", [{"kind": "paper"}, {"kind": "kite", "api_key": "key"}], ids=["paper", "kite"])
def test_p13_paper_never_asks_for_a_broker_whatever_the_setup_names(broker: dict[str, Any], tmp_path: Path) -> None:
    bars = market(sessions=6)
    bundle = make_bundle(tmp_path / "bundle", setting())
    history, trading = split_history(bars, bundle.manifest.state)
    source = _Recorded(history, trading)
    setup = LiveSetup.model_validate(
        {
            "name": "paper",
            "account": "paper",
            "bundle": bundle.path,
            "symbols": ["SIM"],
            "home": tmp_path / "home",
            "feed": {"kind": "yahoo"},
            "broker": broker,
            "gate": {"stale_s": 3600.0, "skew_s": 60.0},
        }
    )
    ended = trade(setup, "paper", bundle, source, lambda name: "", Stopping())
    assert ended.time_ns == int(trading.time_ns[-1])
    assert not source.asked_for_a_broker
    assert ended.day is None
