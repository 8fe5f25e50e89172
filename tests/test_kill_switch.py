"""The kill switch: latched whatever happens, carried out whatever the loop does, released by nothing but the phrase."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rehearsals import buy, rehearsal, rest_of
from typer.testing import CliRunner

from finsense.cli.errors import HALT, USAGE
from finsense.config.live import KillSettings, LiveSetup, load_live
from finsense.live.account_lock import AccountBusy, AccountLock, holder, last_running
from finsense.live.arming import Arming, NotArmed, hours_of, phrase
from finsense.live.brokers.errors import AuthExpired, TransientRead
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.kill import KillRun, kill_tag
from finsense.live.kill_switch import RELEASE_PHRASE, KillSwitch, KillSwitchError, Latch, Outcome, pulled_by_signal
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.secrets import open_store
from finsense.live.stop_orders import Desk, Stopped, Timing, close_positions, held, stop_orders

ROOT = Path(__file__).resolve().parents[1]
SYMBOLS = ("INFY", "TCS")
QUICK = KillSettings(answer_s=0.5, confirm_s=10, chunk_shares=15)
REAL = Timing(time.monotonic, time.sleep)
WAIT_S = 20.0


@pytest.fixture
def switch(tmp_path: Path) -> KillSwitch:
    return KillSwitch(tmp_path / "home")


def test_a_pull_is_latched_for_every_process_and_every_restart(switch: KillSwitch) -> None:
    latch = switch.pull("smoke", "command", flatten=True)
    assert latch == switch.latched == KillSwitch(switch.home).latched
    code = "import sys; from pathlib import Path; from finsense.live.kill_switch import KillSwitch;"
    code += "print(KillSwitch(Path(sys.argv[1])).latched.reason)"
    answer = subprocess.run([sys.executable, "-c", code, str(switch.home)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "smoke"


def test_a_second_pull_keeps_the_first_reason_and_adds_the_flattening(switch: KillSwitch) -> None:
    first = switch.pull("first", "daily loss")
    assert switch.pull("second", "command") == first
    wider = switch.pull("third", "command", flatten=True)
    assert (wider.reason, wider.by, wider.flatten) == ("first", "daily loss", True)
    assert wider.time_ns > first.time_ns, "what was answered before did not close anything"
    assert switch.pull("fourth", "command").flatten


@pytest.mark.parametrize("typed", ["", "release", "Release the kill switch", RELEASE_PHRASE + "!"])
def test_nothing_but_the_phrase_releases_it(switch: KillSwitch, typed: str) -> None:
    switch.pull("smoke", "command")
    with pytest.raises(KillSwitchError, match="stays latched"):
        switch.release(typed)
    assert switch.latched is not None


def test_the_phrase_releases_it_and_all_is_on_record(switch: KillSwitch) -> None:
    latch = switch.pull("smoke", "command")
    switch.answer(latch, Outcome("the loop", ("1",), (), {}, ()))
    assert switch.release(f" {RELEASE_PHRASE}\n").reason == "smoke"
    assert switch.latched is None
    assert switch.answered(latch) is None
    assert [line["what"] for line in switch.history()] == ["pulled", "answered", "released"]
    with pytest.raises(KillSwitchError, match="not latched"):
        switch.release(RELEASE_PHRASE)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"reason": 1}', b"\xff\xfe", b"null"])
def test_a_damaged_latch_counts_as_pulled(switch: KillSwitch, content: bytes) -> None:
    (switch.home / "kill.json").write_bytes(content)
    assert switch.latched is not None


def test_a_folder_that_is_gone_counts_as_pulled(switch: KillSwitch) -> None:
    switch.home.rmdir()
    latch = switch.latched
    assert latch is not None
    assert "is gone" in latch.reason


def test_an_answer_belongs_to_its_pull(switch: KillSwitch) -> None:
    first = switch.pull("smoke", "command")
    outcome = Outcome("the loop", ("1", "2"), (), {"INFY": 5}, ("a remark",))
    switch.answer(first, outcome)
    switch.take(first)
    assert switch.answered(first) == outcome
    assert switch.taken(first)
    again = switch.pull("more", "command", flatten=True)
    assert switch.answered(again) is None
    assert not switch.taken(again)


def test_a_disk_that_takes_no_byte_still_latches(tmp_path: Path) -> None:
    """Files may not grow (as on a full disk) in a process of its own; the name alone is enough."""
    code = """
import os, resource, signal, sys
from pathlib import Path
from finsense.live.kill_switch import KillSwitch
switch = KillSwitch(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
switch.pull("full disk", "test", flatten=True)
latch = switch.latched
sys.stderr.write(f"{latch.reason} {latch.flatten}")
sys.stderr.flush()
# Not through the interpreter's end, which would stumble over what it could not write to the log.
os._exit(0)
"""
    with (tmp_path / "log").open("w") as log:
        # The log is on the full disk too.
        answer = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], stdout=log, stderr=subprocess.PIPE, text=True, check=True
        )
    assert "full disk True" in answer.stderr, "the process itself knows what it pulled"
    latch = KillSwitch(tmp_path).latched
    assert latch is not None, "and after a restart it is latched, whatever the reason was"


def test_a_signal_pulls_it(switch: KillSwitch) -> None:
    with pulled_by_signal(switch):
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + WAIT_S
        while switch.latched is None and time.monotonic() < deadline:
            time.sleep(0.01)
    latch = switch.latched
    assert latch is not None
    assert latch.by == "signal"


# -- the account's lock ------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from finsense.live.account_lock import AccountLock
with AccountLock(Path(sys.argv[1]), "live", {"name": "x"}):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def other_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that said its first line."""
    # The helpers of the tests lie beside this file.
    command, folder = [sys.executable, "-c", code, *arguments], Path(__file__).parent
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(folder)}
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), "it did not start"
            yield process
        finally:
            process.kill()


def test_one_loop_per_account(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with AccountLock(tmp_path, "paper", {"name": "x"}):
        assert holder(tmp_path) == os.getpid()
        with pytest.raises(AccountBusy):
            AccountLock(tmp_path, "paper", {})
        assert holder(tmp_path) == os.getpid(), "asking did not release it"
    assert holder(tmp_path) is None


def test_the_lock_names_its_process_and_ends_with_it(tmp_path: Path) -> None:
    with other_process(HOLD, str(tmp_path)) as process:
        assert holder(tmp_path) == process.pid
        with pytest.raises(AccountBusy, match=str(process.pid)):
            AccountLock(tmp_path, "live", {})
        os.kill(process.pid, signal.SIGSTOP)
        assert holder(tmp_path) == process.pid, "a loop that hangs still holds it"
    assert holder(tmp_path) is None
    running = last_running(tmp_path)
    assert running is not None
    assert (running.mode, running.pid, running.setup) == ("live", process.pid, {"name": "x"})


# -- against the rehearsal's exchange ----------------------------------------------------------------------------------


@contextlib.contextmanager
def trading(tmp_path: Path, faults: Faults | None = None) -> Iterator[tuple[Rehearsal, KiteRest]]:
    """A rehearsal with 20 seconds of trades played, and our client logged in."""
    with rehearsal(faults=faults) as stage:
        stage.play(40)
        rest = rest_of(stage, tmp_path, stage.log_in(), timeout_s=2.0)
        yield stage, rest
        rest.close()


def rest_some(rest: KiteRest, symbol: str = "INFY", count: int = 3) -> list[str]:
    """Limit orders far below the market."""
    price = {"INFY": 140_000, "TCS": 290_000}[symbol]
    return [rest.place(buy(f"fs{symbol}{n}", 10, symbol=symbol, kind="LIMIT", price_paise=price)) for n in range(count)]


def states(stage: Rehearsal) -> list[str]:
    return stage.call(lambda: [order.status for order in stage.exchange.orders])


def shares(stage: Rehearsal) -> dict[tuple[str, str], int]:
    return stage.call(lambda: {key: n for key, n in stage.exchange.positions.items() if n})


def test_every_open_order_is_cancelled_and_seen_cancelled(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        names = [*rest_some(rest), *rest_some(rest, "TCS", 2)]
        stopped = stop_orders(rest, SYMBOLS, spare_stops=True, at_most_s=WAIT_S, timing=REAL)
        assert stopped.done
        assert stopped.cancelled == sorted(names)
        assert not stopped.left
        assert set(states(stage)) == {"CANCELLED"}


def test_other_symbols_are_left_alone(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest_some(rest, "INFY", 1)
        (other,) = rest_some(rest, "TCS", 1)
        stopped = stop_orders(rest, ("INFY",), spare_stops=True, at_most_s=WAIT_S, timing=REAL)
        assert stopped.done
        assert other not in stopped.cancelled
        assert sorted(states(stage)) == ["CANCELLED", "OPEN"]


def stop_loss(tag: str, quantity: int, trigger_paise: int = 145_000) -> Any:
    return buy(tag, quantity, side="SELL", kind="SL-M", trigger_paise=trigger_paise)


def test_the_stop_of_a_position_goes_on_resting_unless_all_is_closed(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest.place(buy("entry", 20))
        guard, surplus = rest.place(stop_loss("guard", 20)), rest.place(stop_loss("surplus", 20, 144_000))
        stopped = stop_orders(rest, SYMBOLS, spare_stops=True, at_most_s=WAIT_S, timing=REAL)
        assert stopped.done
        assert (stopped.spared, stopped.cancelled) == ([guard], [surplus]), "one that would open a position is no stop"
        stopped = stop_orders(rest, SYMBOLS, spare_stops=False, at_most_s=WAIT_S, timing=REAL)
        assert stopped.cancelled == [guard]
        assert shares(stage) == {("INFY", "MIS"): 20}


CANCEL_FAULTS = [
    Fault.ANSWER_LOST,
    Fault.TOO_MANY_JSON,
    Fault.TOO_MANY_HTML,
    Fault.GATEWAY_PAGE,
    Fault.CANCEL_LOSES_TO_FILL,
]


@pytest.mark.parametrize("fault", CANCEL_FAULTS)
def test_it_is_done_in_spite_of_faults(tmp_path: Path, fault: Fault) -> None:
    with trading(tmp_path) as (stage, rest):
        names = rest_some(rest)
        for _ in range(2):
            stage.faults.order(fault)
        stopped = stop_orders(rest, SYMBOLS, spare_stops=False, at_most_s=WAIT_S, timing=REAL)
        assert stopped.done
        assert stopped.cancelled == sorted(names), "over: cancelled, or filled while it was being cancelled"
        assert set(states(stage)) <= {"CANCELLED", "COMPLETE"}


def test_positions_are_closed_in_chunks_and_read_back(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest.place(buy("a", 40))
        rest.place(buy("b", 7, symbol="TCS", side="SELL"))
        rest.place(buy("c", 9, product="CNC"))
        before = held(rest, SYMBOLS)
        assert before == {("INFY", "CNC"): 9, ("INFY", "MIS"): 40, ("TCS", "MIS"): -7}
        closed = close_positions(rest, SYMBOLS, tag="kill1", chunk_shares=15, at_most_s=WAIT_S, timing=REAL)
        assert closed.positions == {}
        assert closed.done
        assert shares(stage) == {}
        orders = [one.request for one in stage.call(lambda: list(stage.exchange.orders))[3:]]
        assert all(one.quantity <= 15 and one.market_protection == -1 for one in orders)
        assert len({one.tag for one in orders}) == len(orders) == 5


def test_a_lost_answer_does_not_sell_twice(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest.place(buy("a", 30))
        stage.faults.order(Fault.ANSWER_LOST)
        closed = close_positions(rest, SYMBOLS, tag="kill1", chunk_shares=15, at_most_s=WAIT_S, timing=REAL)
        assert closed.positions == {}
        assert shares(stage) == {}
        assert any("lost" in one for one in closed.problems)
        sold = [one for one in stage.call(lambda: list(stage.exchange.orders)) if one.request.side == "SELL"]
        assert sum(one.filled for one in sold) == 30


def test_what_cannot_be_closed_is_said_exactly(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest.place(buy("a", 30))
        stage.call(lambda: stage.clock.set(stage.clock.now_ns() + 10 * 3_600_000_000_000))
        closed = close_positions(rest, SYMBOLS, tag="kill1", chunk_shares=15, at_most_s=WAIT_S, timing=REAL)
        assert closed.positions == {("INFY", "MIS"): 30}
        assert any("INFY" in one and "closed" in one.lower() for one in closed.problems)
        assert shares(stage) == {("INFY", "MIS"): 30}


def test_a_book_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        rest_some(rest)
        stage.call(lambda: stage.rest.access_tokens.clear())
        stopped = stop_orders(rest, SYMBOLS, spare_stops=False, at_most_s=WAIT_S, timing=REAL)
        assert not stopped.done
        assert stopped.left
        assert any("cannot be read" in one for one in stopped.problems)


def test_positions_that_cannot_be_read_hold_up_no_cancel(tmp_path: Path) -> None:
    with trading(tmp_path) as (stage, rest):
        names = rest_some(rest)

        class Blind:
            """Positions are not to be had."""

            orders, holdings, cancel, place = rest.orders, rest.holdings, rest.cancel, rest.place

            def positions(self) -> Any:
                raise TransientRead("no answer")

        stopped = stop_orders(Blind(), SYMBOLS, spare_stops=True, at_most_s=1.0, timing=REAL)
        assert stopped.cancelled == sorted(names)
        assert not stopped.done, "whether a stop protects a position is not known"
        assert set(states(stage)) == {"CANCELLED"}


def run(switch: KillSwitch, latch: Latch, desk: Desk | None, settings: KillSettings = QUICK) -> Outcome:
    return KillRun(switch, latch, SYMBOLS, settings, None if desk is None else lambda: desk).carry_out()


def test_with_a_dead_loop_the_command_does_it_all(tmp_path: Path, switch: KillSwitch) -> None:
    with trading(tmp_path) as (stage, rest):
        rest.place(buy("a", 20))
        names = rest_some(rest)
        latch = switch.pull("smoke", "command", flatten=True)
        outcome = run(switch, latch, rest)
        assert (outcome.by, outcome.orders, outcome.open_orders) == ("the command", tuple(sorted(names)), ())
        assert (outcome.positions, outcome.problems) == ({}, ())
        assert shares(stage) == {}
        assert switch.answered(latch) == outcome


# Holds the lock, places an order every 0.1 s, and looks at the switch only where it is told to.
LOOP = """
import sys, time
from pathlib import Path
from finsense.live.account_lock import AccountLock
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.kill_switch import KillSwitch, Outcome
from finsense.live.stop_orders import Timing, stop_orders
from rehearsals import buy
root, token, folder, home, looks = sys.argv[1:]
rest = KiteRest("rehearsalkey", token, RateLimits(Path(folder) / "limits.db"), root=root)
switch = KillSwitch(Path(home))
with AccountLock(Path(home), "live", {}):
    for number in range(3):
        rest.place(buy(f"loop{number}", 10, kind="LIMIT", price_paise=140_000))
    print("trading", flush=True)
    while True:
        latch = switch.latched if looks == "yes" else None
        if latch is not None:
            switch.take(latch)
            timing = Timing(time.monotonic, time.sleep)
            stopped = stop_orders(rest, ("INFY", "TCS"), spare_stops=True, at_most_s=20, timing=timing)
            switch.answer(latch, Outcome("the loop", tuple(stopped.cancelled), tuple(stopped.left), {}, ()))
            break
        time.sleep(0.05)
"""


@pytest.mark.parametrize("state", ["healthy", "deaf", "stopped"])
def test_with_a_loop_in_any_state_all_is_cancelled_and_nothing_follows(tmp_path: Path, state: str) -> None:
    switch = KillSwitch(tmp_path / "home")
    looks = "yes" if state == "healthy" else "no"
    settings = QUICK.model_copy(update={"answer_s": 30.0 if state == "healthy" else 0.3})
    with trading(tmp_path) as (stage, rest):
        token = next(iter(stage.rest.access_tokens))
        with other_process(LOOP, stage.root, token, str(tmp_path), str(switch.home), looks) as process:
            if state == "stopped":
                os.kill(process.pid, signal.SIGSTOP)
            outcome = run(switch, switch.pull("smoke", "command"), rest, settings)
            assert outcome.by == ("the loop" if state == "healthy" else "the command")
            assert len(outcome.orders) == 3
            assert not outcome.open_orders
            assert not outcome.problems
            assert set(states(stage)) == {"CANCELLED"}
            assert process.wait(WAIT_S) == (0 if state == "healthy" else -signal.SIGKILL)
        assert switch.latched is not None


def test_a_paper_loop_touches_no_broker(tmp_path: Path, switch: KillSwitch) -> None:
    outcome = run(switch, switch.pull("smoke", "command", flatten=True), None)
    assert not outcome.problems
    assert "paper" in outcome.by


def test_a_broker_that_cannot_be_reached_is_a_problem_not_a_success(switch: KillSwitch) -> None:
    def no_desk() -> Desk:
        raise AuthExpired("there is no access token yet")

    latch = switch.pull("smoke", "command")
    outcome = KillRun(switch, latch, SYMBOLS, QUICK, no_desk).carry_out()
    assert outcome.open_orders
    assert "no access token" in outcome.problems[0]
    assert switch.latched == latch


@pytest.mark.parametrize("pid", [0, -1])
def test_a_loop_that_cannot_be_seen_ends_nobody_else(
    tmp_path: Path, switch: KillSwitch, monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """In another container the kernel names it 0: a signal to 0 or -1 would end whole groups of processes."""
    ended: list[int] = []
    monkeypatch.setattr("finsense.live.kill.holder", lambda home: pid)
    monkeypatch.setattr("finsense.live.kill.os.kill", lambda number, what: ended.append(number))
    with trading(tmp_path) as (stage, rest):
        names = rest_some(rest)
        outcome = run(switch, switch.pull("smoke", "command"), rest, QUICK.model_copy(update={"answer_s": 0.1}))
        assert (ended, outcome.orders) == ([], tuple(sorted(names)))
        assert "cannot be ended" in outcome.problems[0]
        assert set(states(stage)) == {"CANCELLED"}


def test_what_was_done_is_told_where_it_cannot_be_written(
    tmp_path: Path, switch: KillSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with trading(tmp_path) as (_, rest):
        names = rest_some(rest)
        latch = switch.pull("smoke", "command")
        monkeypatch.setattr("finsense.live.kill_switch.write_durably", full)
        assert run(switch, latch, rest).orders == tuple(sorted(names))


def test_a_signal_pulls_it_for_the_process_where_the_disk_takes_nothing(
    switch: KillSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(latch: Latch) -> None:
        raise KillSwitchError("no space left on device")

    monkeypatch.setattr(switch, "_write", refuse)
    with pulled_by_signal(switch):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert switch.latched is not None


def test_tags_of_kills_fit_and_differ() -> None:
    tags = {
        kill_tag(Latch("", "", time_ns, True)) for time_ns in (1_800_000_000_000_000_000, 1_800_000_000_001_000_000)
    }
    assert len(tags) == 2
    assert all(len(f"{tag}000") <= 20 and tag.isalnum() for tag in tags)


def test_an_empty_report_is_not_done() -> None:
    assert not Stopped().done


# -- the token that lets a loop begin ----------------------------------------------------------------------------------


def armable(tmp_path: Path) -> LiveSetup:
    return load_live(ROOT / "configs" / "live_rehearsal.yaml", [f"home={tmp_path}/home"])


def test_a_token_is_of_one_setup_one_bundle_and_some_hours(tmp_path: Path) -> None:
    setup, now = armable(tmp_path), [10**18]
    arming = Arming(setup.home, lambda: now[0])
    with pytest.raises(NotArmed, match="is not armed"):
        arming.check(setup, "bundle")
    token = arming.arm(setup, "bundle", hours_of("8h"), phrase(setup))
    assert arming.check(setup, "bundle") == token
    with pytest.raises(NotArmed, match="bundle was changed"):
        arming.check(setup, "another")
    with pytest.raises(NotArmed, match="setup was changed"):
        arming.check(setup.model_copy(update={"symbols": ("SIMA",)}), "bundle")
    for moved in (token.until_ns, token.from_ns - 1):
        now[0] = moved
        with pytest.raises(NotArmed, match="it was armed from"):
            arming.check(setup, "bundle")
    now[0] = token.until_ns - 1
    assert arming.check(setup, "bundle") == token
    assert arming.disarm()
    assert not arming.disarm()
    with pytest.raises(NotArmed):
        arming.check(setup, "bundle")


@pytest.mark.parametrize(("hours", "typed"), [(8, "yes"), (0, ""), (25, ""), (float("nan"), "")])
def test_a_wrong_phrase_or_lifetime_arms_nothing(tmp_path: Path, hours: float, typed: str) -> None:
    setup = armable(tmp_path)
    with pytest.raises(NotArmed):
        Arming(setup.home).arm(setup, "bundle", hours, typed or phrase(setup))
    with pytest.raises(NotArmed, match="is not armed"):
        Arming(setup.home).check(setup, "bundle")


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"setup": "x"})])
def test_a_damaged_token_arms_nothing(tmp_path: Path, content: str) -> None:
    setup = armable(tmp_path)
    setup.home.mkdir()
    (setup.home / "armed.json").write_text(content)
    with pytest.raises(NotArmed, match="cannot be read"):
        Arming(setup.home).check(setup, "bundle")


@pytest.mark.parametrize("text", ["", "8", "h", "8d", "-"])
def test_lifetimes_are_hours_or_minutes(text: str) -> None:
    assert hours_of("30m") == 0.5
    with pytest.raises(NotArmed):
        hours_of(text)


# -- the commands ------------------------------------------------------------------------------------------------------


def command(*arguments: str, typed: str = "") -> Any:
    from finsense.cli.main import app

    return CliRunner().invoke(app, list(arguments), input=typed)


def paper_setup(tmp_path: Path) -> Path:
    path = tmp_path / "paper.yaml"
    path.write_text(
        f"{{name: x, account: main, home: {tmp_path}/home, bundle: none, symbols: [INFY], "
        "feed: {kind: replay, path: none.parquet}}"
    )
    return path


def test_the_command_latches_disarms_and_releases(tmp_path: Path) -> None:
    path = paper_setup(tmp_path)
    setup = load_live(path)
    Arming(setup.home).arm(setup, "bundle", 8, phrase(setup))
    told = command("kill", str(path), "--reason", "smoke", "--json")
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["latch"]["reason"] == "smoke"
    switch = KillSwitch(setup.home)
    assert switch.latched is not None
    with pytest.raises(NotArmed):
        Arming(setup.home).check(setup, "bundle")
    refused = command("kill", str(path), "--release", typed="no\n")
    assert (refused.exit_code, "stays latched" in refused.output) == (USAGE, True)
    assert command("arm", str(path), typed=f"{phrase(setup)}\n").exit_code == HALT, "a latched account is not armed"
    assert command("kill", str(path), "--release", typed=f"{RELEASE_PHRASE}\n").exit_code == 0
    assert switch.latched is None


def test_a_home_alone_is_enough_where_a_loop_has_run(tmp_path: Path) -> None:
    setup = load_live(paper_setup(tmp_path))
    with AccountLock(setup.home, "paper", setup.resolved()):
        pass
    told = command("kill", "--home", str(setup.home), "--flatten")
    assert told.exit_code == 0, told.output
    latch = KillSwitch(setup.home).latched
    assert latch is not None
    assert latch.flatten


def test_a_home_of_which_nothing_is_known_is_latched_and_says_that_the_broker_was_not_asked(tmp_path: Path) -> None:
    told = command("kill", "--home", str(tmp_path))
    assert told.exit_code == HALT
    assert "the broker was not asked" in " ".join(told.output.split())
    assert KillSwitch(tmp_path).latched is not None


@pytest.mark.parametrize("arguments", [(), ("--account", "main", "--home", "x"), ("--account", "nobody-has-this-name")])
def test_a_kill_of_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    assert command("kill", *arguments).exit_code == USAGE


def test_a_setup_that_cannot_be_read_says_what_else_to_type(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [")
    told = command("kill", str(path))
    assert told.exit_code == USAGE
    assert "finsense kill --account NAME" in " ".join(told.output.split())


def test_the_command_cancels_at_the_broker_where_no_loop_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSENSE_SECRETS", "file")
    monkeypatch.setenv("FINSENSE_PASSPHRASE", "correct horse battery")
    with trading(tmp_path) as (stage, rest):
        names = rest_some(rest)
        rest.place(buy("entry", 20))
        path = tmp_path / "live.yaml"
        path.write_text(
            f"{{name: x, account: main, home: {tmp_path}/home, bundle: none, symbols: [INFY, TCS], "
            "feed: {kind: kite}, broker: {kind: kite, api_key: rehearsalkey, "
            f"root: '{stage.root}', stream_root: '{stage.stream_root}'}}}}"
        )
        told = command("kill", str(path))
        assert told.exit_code == HALT, "without a login nothing can be cancelled"
        assert "nobody" in told.output
        (token,) = stage.rest.access_tokens
        open_store(tmp_path / "home").set("main.kite.access_token", token)
        # A session on paper came after the live one.
        AccountLock(tmp_path / "home", "paper", {}).close()
        (tmp_path / "home" / "x.live.db").touch()
        # A disk that is full, or a file of rates that is broken, keeps no order in the book.
        for left in (tmp_path / "home").glob("rates.db*"):
            left.unlink()
        (tmp_path / "home" / "rates.db").write_bytes(b"no database" * 1000)
        told = command("kill", str(path), "--flatten", "--json")
        assert told.exit_code == 0, told.output
        outcome = json.loads(told.stdout[told.stdout.index("{") :])["outcome"]
        assert (outcome["orders"], outcome["positions"]) == (sorted(names), {})
        assert shares(stage) == {}
        assert token not in told.output
