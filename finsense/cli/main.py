"""The command `finsense`: registers every command and starts the one asked for."""

import logging
import sys
from typing import Annotated

import structlog
import typer

from finsense import __version__
from finsense.cli.arm import arm
from finsense.cli.backtest import backtest
from finsense.cli.broker import broker_app
from finsense.cli.calendar import calendar
from finsense.cli.capital import capital
from finsense.cli.config import config_app
from finsense.cli.costs import costs
from finsense.cli.demo import demo
from finsense.cli.doctor import doctor
from finsense.cli.ensemble import ensemble_app
from finsense.cli.errors import guarded
from finsense.cli.evaluate import evaluate
from finsense.cli.features import features_app
from finsense.cli.journal import journal_app
from finsense.cli.kill import kill
from finsense.cli.live import live
from finsense.cli.lookahead import lookahead
from finsense.cli.oracle import oracle
from finsense.cli.paper import paper
from finsense.cli.parity import parity
from finsense.cli.preflight import preflight
from finsense.cli.reconcile import reconcile
from finsense.cli.rehearse import rehearse
from finsense.cli.runs import runs_app
from finsense.cli.secrets import secrets_app
from finsense.cli.state import state
from finsense.cli.train import train
from finsense.cli.tune import tune
from finsense.cli.walkforward import walkforward
from finsense.live.redaction import redact, shielded

app = typer.Typer(
    name="finsense",
    help="Reinforcement learning for Indian equities: train, prove, and run the same policy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_FILE = "--data bars.parquet --symbol RELIANCE --from 2023-12-01 --to 2023-12-29"
for command, example in (
    (demo, "finsense demo"),
    (train, "finsense train configs/ppo_reliance_5m.yaml --set agent.steps=200000 --json"),
    (tune, "finsense tune configs/tune_demo.yaml --trials 20 --storage runs/tune_demo.journal"),
    (walkforward, "finsense walkforward configs/walkforward_5m.yaml --folds 3 --seeds 10 --out runs/walkforward_5m"),
    (backtest, f"finsense backtest checkpoints/ppo_reliance_5m {_FILE} --report report.html"),
    (
        evaluate,
        "finsense evaluate checkpoints/lstm_reliance_5m --data bars.parquet --symbol RELIANCE --report report.html",
    ),
    (
        paper,
        f"finsense paper --bundle checkpoints/ppo_reliance_5m {_FILE.replace('--data', '--replay')} --journal j.db",
    ),
    (live, "finsense live configs/live_kite.yaml"),
    (preflight, "finsense preflight configs/live_kite.yaml --mode live"),
    (arm, "finsense arm configs/live_kite.yaml --for 8h"),
    (kill, "finsense kill configs/live_kite.yaml --flatten --reason 'the news'"),
    (reconcile, "finsense reconcile configs/live_kite.yaml --accept --price INFY=1500.05"),
    (rehearse, "finsense rehearse --symbols SIMA,SIMB --speed 60 --fault answer_lost=0.1"),
    (lookahead, "finsense lookahead configs/ppo_reliance_5m.yaml --bundle checkpoints/ppo_reliance_5m --json"),
    (oracle, "finsense oracle configs/ppo_oracle.yaml --bundle checkpoints/ppo_oracle --plot policy.svg"),
    (parity, f"finsense parity checkpoints/ppo_reliance_5m {_FILE}"),
    (state, "finsense state configs/ppo_reliance_5m.yaml --data bars.parquet --symbol RELIANCE --out states.npz"),
    (capital, "finsense capital positions.yaml --json"),
    (costs, "finsense costs --contract-note fills.csv --json"),
    (calendar, "finsense calendar 2026-08-03 --derivatives"),
    (doctor, "finsense doctor --json"),
):
    app.command(epilog=f"Example: {example}")(guarded(command))
app.add_typer(broker_app)
app.add_typer(config_app)
app.add_typer(ensemble_app)
app.add_typer(features_app)
app.add_typer(journal_app)
app.add_typer(runs_app)
app.add_typer(secrets_app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"finsense {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Every command has --help with an example; data goes to stdout, logs and errors to stderr."""


def main() -> None:
    """Entry point of the console script."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            # Last: only the finished line holds tracebacks too.
            redact,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # Looked up at each line: while a progress bar is drawn, sys.stderr is the one that writes above it.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    with shielded():
        app()
