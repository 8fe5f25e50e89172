"""Which checks stand before a start, and whether they let it begin."""

from collections.abc import Iterable

from finsense.config.live import LiveSetup
from finsense.live.checks import Check, Checking, Mode, State
from finsense.live.checks.local import LOCAL, recorded_history
from finsense.live.checks.outside import ADDRESS, BROKER_SIDE, CHANNELS


def wanted_checks(
    setup: LiveSetup, mode: Mode, feed: dict[str, Checking], trading: dict[str, Checking]
) -> dict[str, Checking]:
    """The checks of a setup in a mode, in the order in which they are shown.

    Args:
        setup: what is to run.
        mode: paper or live.
        feed: checks of Kite's feed, of `checks.broker`; empty where the setup has another feed.
        trading: checks of the account at Kite, of `checks.broker`.
    """
    checks = dict(LOCAL)
    if setup.feed.kind == "replay":
        checks["warm-up"] = recorded_history
        # It trades days that are over.
        del checks["calendar"]
    if setup.feed.kind == "kite":
        checks |= {**BROKER_SIDE, **feed}
    if mode == "live":
        checks |= {**ADDRESS, **trading}
    return checks | CHANNELS


def green(checks: Iterable[Check]) -> bool:
    """Whether nothing stands in the way: no cross; warnings do not."""
    return all(check.state is not State.CROSS for check in checks)
