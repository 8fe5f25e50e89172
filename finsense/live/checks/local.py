"""Checks that need this machine alone: bundle, limits, calendar, disk, lock, kill switch, recorded history."""

import shutil
import sqlite3
from contextlib import closing

from finsense.config.live import LiveSetupError, ReplayFeed
from finsense.live.account_lock import holder
from finsense.live.bar_grid import next_session
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.checks import Checking, Finding, Scene, cross, ok, warning
from finsense.live.durable import write_durably
from finsense.live.journal_format import JournalError
from finsense.live.journal_reader import JournalReader
from finsense.live.kill_switch import KillSwitch
from finsense.live.start import identity_of
from finsense.market.bars import BarsError, ist_text
from finsense.market.calendar import CalendarError, nse_calendar
from finsense.market.sanity import inspect
from finsense.market.sources.files import load_bars
from finsense.model.bundle import BundleError
from finsense.state.builder import HistoryError
from finsense.state.span import split_history

# A journal grows by some megabytes a day.
_LEAST_BYTES, _WANTED_BYTES = 200 * 1024**2, 1024**3
_SHOWN = 3


def kill_switch(scene: Scene) -> Finding:
    """Latched: nothing may start."""
    latch = KillSwitch(scene.setup.home).latched
    if latch is None:
        return ok("not latched")
    when = f" at {ist_text(latch.time_ns)}" if latch.time_ns else ""
    return cross(f"latched{when} by {latch.by}: {latch.reason}", f"finsense kill {scene.path} --release")


def account_lock(scene: Scene) -> Finding:
    """One loop per account."""
    pid = holder(scene.setup.home)
    if pid is None:
        return ok(f"no other loop runs on {scene.setup.account}")
    return cross(
        f"process {pid} runs a loop on {scene.setup.account}", f"stop it, or finsense kill {scene.path} if it hangs"
    )


def disk(scene: Scene) -> Finding:
    """There is room, and what is written reaches the disk."""
    home = scene.setup.home
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = home / "preflight.probe"
        write_durably(probe, b"x" * 4096)
        probe.unlink()
        free = shutil.disk_usage(home).free
    except OSError as error:
        return cross(f"{home} cannot be written: {error}", f"make {home} writable, or name another `home`")
    text = f"{free / 1024**3:.1f} GiB free at {home}, fsync works"
    mend = f"free some space at {home}"
    if free < _LEAST_BYTES:
        return cross(text, mend)
    return warning(text, mend) if free < _WANTED_BYTES else ok(text)


def rates(scene: Scene) -> Finding:
    """The file of the account's request rates."""
    try:
        with closing(RateLimits(scene.setup.rates)):
            pass
    except sqlite3.Error as error:
        return cross(
            f"{scene.setup.rates}: {error}", f"move {scene.setup.rates} away; orders of the last day are then forgotten"
        )
    return ok(f"{scene.setup.rates.name} is usable")


def bundle(scene: Scene) -> Finding:
    """The bundle verifies and decides as it did when it was exported."""
    try:
        found = scene.bundle
    except (BundleError, OSError) as error:
        return cross(str(error), "export it again, or name another `bundle`")
    manifest = found.manifest
    return ok(f"{manifest.name} {found.identity[:8]} ({manifest.kind}, {manifest.interval}): golden vectors agree")


def validation(scene: Scene) -> Finding:
    """The bundle says how it did on days that it was not fitted on."""
    manifest = scene.bundle.manifest
    mend = f"train it anew with a validation span: finsense train, then name its bundle in {scene.path}"
    if not manifest.validation:
        look = cross if scene.live else warning
        return look("the bundle carries no validation result", mend)
    if manifest.alarms:
        return warning("; ".join(f"{name}: {text}" for name, text in manifest.alarms.items()), "read its model card")
    foreign = sorted(set(scene.setup.symbols) - set(manifest.symbols))
    if foreign:
        return warning(
            f"it was neither trained nor validated on {', '.join(foreign)}", "finsense backtest it on them first"
        )
    return ok("the bundle carries a validation result")


def limits(scene: Scene) -> Finding:
    """Limits go together with the bundle's, and none is looser than its preset without being told."""
    try:
        rules = scene.rules
    except LiveSetupError as error:
        return cross(str(error), f"mend `limits` in {scene.path}")
    remarks = scene.setup.remarks()
    if remarks:
        return warning(f"looser than the preset: {'; '.join(remarks)}", f"look at `limits` in {scene.path}")
    if not rules.limits.on:
        return warning("no limit is on", f"give {scene.path} `limits: {{preset: small_account}}`")
    if rules.limits != scene.bundle.manifest.account.limits:
        return warning(
            "tighter than those the policy was trained under: it may want what is masked", "train it under these limits"
        )
    return ok("as the policy was trained")


def calendar(scene: Scene) -> Finding:
    """Today has a session that is not over."""
    now_ns, today = scene.clock.now_ns(), scene.today
    try:
        sessions = {symbol: scene.session(symbol) for symbol in scene.setup.ordered_symbols}
    except CalendarError as error:
        return cross(str(error), "pip install -U finsense, or start on another day")
    found = [session for session in sessions.values() if session is not None]
    later = next_session(today, derivatives=scene.derivatives(scene.setup.ordered_symbols[0]))
    following = "the calendar knows no later one" if later is None else f"the next one is {later.date}"
    start = "start again then" if later is not None else "pip install -U finsense"
    if not found:
        return cross(f"{today} has no session ({nse_calendar().closed_reason(today)}); {following}", start)
    begin, end = min(one.open_ns for one in found), max(one.close_ns for one in found)
    # What a daily bar decides is sent after its session.
    if now_ns >= end and not scene.daily:
        return cross(f"the session of {today} ended at {ist_text(end)[11:16]}; {following}", start)
    first = found[0]
    hours = f"{ist_text(begin)[11:16]} to {ist_text(end)[11:16]}"
    if first.kind != "regular":
        return warning(
            f"{first.name or first.kind}: a {first.kind} session, {hours}", "know its hours before you start"
        )
    auction = ", closing auction after it" if any(one.closing_auction for one in found) else ""
    return ok(f"regular session {hours}{auction}")


def recorded_history(scene: Scene) -> Finding:
    """A replay has its warm-up bars, without holes."""
    feed, manifest = scene.setup.feed, scene.bundle.manifest
    assert isinstance(feed, ReplayFeed)
    doubts = []
    for symbol in scene.setup.ordered_symbols:
        try:
            bars = load_bars(
                feed.path, symbol, manifest.interval, timezone=feed.timezone, derivatives=manifest.derivatives
            )
            before, _ = split_history(bars, manifest.state, feed.first, feed.last)
        except (BarsError, HistoryError, OSError) as error:
            return cross(str(error), f"give {feed.path} more bars, or start later (`feed.from`)")
        doubts += [
            f"{symbol} {finding}"
            for finding in inspect(bars)
            if finding.kind.startswith("missing") and before.first_date <= finding.date <= before.last_date
        ]
    if doubts:
        return warning("; ".join(doubts[:_SHOWN]), "finsense state shows what the policy sees; find whole bars")
    return ok(f"{manifest.state.warmup} bars of each symbol, without a gap")


def journal(scene: Scene) -> Finding:
    """The journal there is goes on with this setup and this bundle."""
    path = scene.setup.journal(scene.mode)
    if not path.exists():
        return ok(f"a new one begins at {path}")
    wanted = identity_of(scene.setup, scene.mode, scene.bundle)
    try:
        with closing(JournalReader(path)) as reader:
            found = {name: value for name, value in reader.identity.items() if name != "format"}
    except JournalError as error:
        return cross(str(error), f"give {scene.path} another `name`")
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        return cross(
            f"{path} is the journal of another session: {', '.join(differing)} differ",
            f"give {scene.path} another `name`, or start it as that one was started",
        )
    return ok(f"{path} goes on")


LOCAL: dict[str, Checking] = {
    "kill switch": kill_switch,
    "account lock": account_lock,
    "disk": disk,
    "request rates": rates,
    "bundle": bundle,
    "validation": validation,
    "limits": limits,
    "journal": journal,
    "calendar": calendar,
}
