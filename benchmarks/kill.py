"""From `finsense kill` to the last cancel at the exchange, with a loop that is healthy, that hangs, that is dead."""

import datetime as dt
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measurement import Effort, Measurement, remark, spread
from finsense.live.kite_login import access_token_name
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.live.secrets import open_store
from finsense.market.simulate import SimulatedMarket

_DAY = dt.date(2026, 7, 15)
_ORDERS = 8
# How long `finsense kill` gives a loop to answer, before it ends it.
_ANSWER_S = 1.0
_WAIT_S = 60.0
STATES = ("healthy", "hung", "dead")
# What a loop does that counts here: it holds the account's lock, has orders that rest, and looks around as often as a
# feed without news lets it (once a second at least; here four times).
_LOOP = """
import sys, time
from pathlib import Path
from finsense.config.live import load_live
from finsense.live.account_lock import AccountLock
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.kill_switch import KillSwitch, Outcome
from finsense.live.orders import OrderRequest
from finsense.live.stop_orders import Timing, stop_orders
path, token, orders, paise = sys.argv[1:]
setup = load_live(path)
rest = KiteRest(setup.broker.api_key, token, RateLimits(setup.rates), root=setup.broker.root)
switch = KillSwitch(setup.home)
with AccountLock(setup.home, "live", setup.resolved()):
    for number in range(int(orders)):
        rest.place(OrderRequest(f"b{number}", "SIMA", "BUY", 1, "LIMIT", "MIS", price_paise=int(paise)))
    print("trading", flush=True)
    while (latch := switch.latched) is None:
        time.sleep(0.25)
    switch.take(latch)
    stopped = stop_orders(
        rest, setup.symbols, spare_stops=True, at_most_s=30, timing=Timing(time.monotonic, time.sleep)
    )
    switch.answer(latch, Outcome("the loop", tuple(stopped.cancelled), tuple(stopped.left), {}, ()))
"""


def kill(effort: Effort) -> list[Measurement]:
    """Seconds from the start of the command, its imports included, until no order is open at the rehearsal's exchange.

    And until the command has read that in the book, twice, and has ended.
    """
    lines = []
    for state in STATES:
        found = [_run(state) for _ in range(effort.rounds)]
        for part, seconds in zip(("last_cancel", "confirmed"), zip(*found, strict=True), strict=True):
            remark(f"kill_{state}_{part}: {spread(seconds)} s for {_ORDERS} orders")
            lines.append(Measurement(f"kill_{state}_{part}", statistics.median(seconds), "s"))
    return lines


def _run(state: str) -> tuple[float, float]:
    simulated = {"model": "random_walk", "symbols": ("SIMA",), "interval": "5m", "seed": 3}
    market = SimulatedMarket.model_validate({**simulated, "first": _DAY - dt.timedelta(5), "last": _DAY})
    os.environ |= {"FINSENSE_SECRETS": "file", "FINSENSE_PASSPHRASE": "benchmark passphrase"}
    with (
        tempfile.TemporaryDirectory() as folder,
        stage(list(market.load().values()), _DAY, speed=0, balance_paise=10**9) as rehearsal,
    ):
        rehearsal.play(8)
        path, token = Path(folder) / "live.yaml", rehearsal.log_in()
        path.write_text(
            f"name: bench\naccount: bench\nhome: {folder}/home\nbundle: none\nsymbols: [SIMA]\nfeed: {{kind: kite}}\n"
            f"kill: {{answer_s: {_ANSWER_S}}}\nbroker: {{kind: kite, api_key: {API_KEY}, root: '{rehearsal.root}', "
            f"stream_root: '{rehearsal.stream_root}'}}\n"
        )
        home = Path(folder) / "home"
        home.mkdir()
        open_store(home).set(access_token_name("bench"), token)
        listing = rehearsal.exchange.streets["SIMA"].listing
        # Far below the market, and within the circuit limits.
        paise = int(listing.previous_close_paise * 0.95) // listing.tick_paise * listing.tick_paise
        loop = [sys.executable, "-c", _LOOP, str(path), token, str(_ORDERS), str(paise)]
        with subprocess.Popen(loop, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                if not process.stdout.readline():
                    raise RuntimeError("the loop did not start")
                if len(rehearsal.call(lambda: [one for one in rehearsal.exchange.orders if one.working])) != _ORDERS:
                    raise RuntimeError("the loop's orders do not rest")
                if state == "hung":
                    os.kill(process.pid, signal.SIGSTOP)
                elif state == "dead":
                    process.kill()
                    process.wait()
                return _killed(rehearsal, path)
            finally:
                process.kill()


def _killed(rehearsal: Rehearsal, path: Path) -> tuple[float, float]:
    """Seconds until the last cancel at the exchange, and until the command has ended."""
    began_s = time.monotonic()
    command = [sys.executable, "-c", "from finsense.cli.main import main; main()", "kill", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        cancelled_s = None
        while cancelled_s is None:
            if time.monotonic() - began_s > _WAIT_S:
                process.kill()
                raise RuntimeError("orders are still open")
            if not rehearsal.call(lambda: [one for one in rehearsal.exchange.orders if one.working]):
                cancelled_s = time.monotonic() - began_s
            time.sleep(0.005)
        if process.wait(_WAIT_S) != 0:
            raise RuntimeError(f"finsense kill ended with {process.returncode}")
    return cancelled_s, time.monotonic() - began_s
