"""From an exception to a message on stderr and an exit code."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from finsense.account.crowding import SectorError
from finsense.account.joint import JointError
from finsense.account.ranking import CapitalError
from finsense.account.session import IllegalAction
from finsense.account.sizing import SizingError
from finsense.agents.labels import LabelError
from finsense.agents.splits import SplitError
from finsense.config import ConfigError
from finsense.config.live import LiveSetupError
from finsense.evaluation.oracle import OracleError
from finsense.evaluation.walkforward import FoldError
from finsense.live.account_lock import AccountBusy
from finsense.live.arming import NotArmed
from finsense.live.brokers.errors import BooksDiffer, BrokerError, HaltTrading
from finsense.live.feeds.yahoo_patience import FeedSilent, HistoryOutdated
from finsense.live.journal_format import JournalError
from finsense.live.kill_switch import KillSwitchError
from finsense.live.redaction import scrub
from finsense.live.secret_store import SecretError
from finsense.market.bars import BarsError
from finsense.market.calendar import CalendarError
from finsense.market.costs import CostError
from finsense.market.instruments import InstrumentError
from finsense.market.simulate import SimulationError
from finsense.market.timeline import TimelineError
from finsense.model.bundle import BundleError
from finsense.model.onnx_policy import OnnxPolicyError
from finsense.state.builder import HistoryError, MissingFieldsError
from finsense.state.cache import CacheError
from finsense.state.extension import ExtensionError
from finsense.state.scaler import ScalerError

RUNTIME, USAGE, CONFIG, DATA, GATE, PREFLIGHT, BROKER, HALT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 7, 8, 130

_KINDS: dict[type[Exception], tuple[str, int]] = {
    BarsError: ("data", DATA),
    HistoryError: ("data", DATA),
    MissingFieldsError: ("data", DATA),
    TimelineError: ("data", DATA),
    LabelError: ("data", DATA),
    SplitError: ("data", DATA),
    ScalerError: ("data", DATA),
    InstrumentError: ("data", DATA),
    SimulationError: ("data", DATA),
    ExtensionError: ("features", CONFIG),
    FoldError: ("walkforward", CONFIG),
    OracleError: ("oracle", CONFIG),
    CalendarError: ("calendar", DATA),
    CostError: ("costs", DATA),
    CacheError: ("cache", USAGE),
    BundleError: ("bundle", GATE),
    JournalError: ("journal", RUNTIME),
    BooksDiffer: ("books", HALT),
    HaltTrading: ("halted", HALT),
    BrokerError: ("broker", BROKER),
    SecretError: ("secrets", BROKER),
    LiveSetupError: ("setup", CONFIG),
    AccountBusy: ("account", RUNTIME),
    NotArmed: ("arm", PREFLIGHT),
    KillSwitchError: ("kill", HALT),
    FeedSilent: ("feed", HALT),
    HistoryOutdated: ("feed", HALT),
    CapitalError: ("capital", DATA),
    JointError: ("account", DATA),
    SectorError: ("limits", CONFIG),
    SizingError: ("capital", DATA),
    IllegalAction: ("policy", RUNTIME),
    OnnxPolicyError: ("policy", RUNTIME),
    OSError: ("system", RUNTIME),
}


def refuse(area: str, message: str, exit_code: int) -> NoReturn:
    """Say on stderr what is wrong and leave with the exit code."""
    typer.echo(scrub(f"error[{area}]: {message}"), err=True)
    raise typer.Exit(exit_code)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every foreseen error turned into a message and an exit code; others keep their traceback."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ConfigError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(CONFIG) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted: what was done so far is saved", err=True)
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            found = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), None)
            # A learner's own errors live beside torch, which a live box does not have, so they are known by their home.
            if found is None and type(error).__module__.startswith("finsense.agents"):
                found = ("train", RUNTIME)
            if found is None:
                raise
            refuse(found[0], str(error), found[1])

    return run
