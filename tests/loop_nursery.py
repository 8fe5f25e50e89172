"""Gives life to one loop after the other: a process that has everything loaded and forks, so that each dies alone.

    python tests/loop_nursery.py SETUP TOKEN_FILE LOG [MODE]

MODE is `live` or `paper`. What a loop says of its day lies beside the log, as JSON, once it has ended by itself. On
stdin: `start` forks a loop and answers with its process id; `wait` answers with how it ended (exit code, or minus
the signal).
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import cast

import structlog

from finsense.config.live import load_live
from finsense.live.brokers.errors import BooksDiffer, BrokerError, HaltTrading
from finsense.live.kite_source import KiteSource
from finsense.live.last_wall import Stopping
from finsense.live.secret_store import Secret, SecretStore
from finsense.live.start import Ended, Mode, trade
from finsense.model.bundle import load_bundle

OVER, EARLY, BROKER, HALTED, BOOKS, BROKEN = 0, 3, 7, 8, 9, 1


class TokenFile(SecretStore):
    """The login of a rehearsal, in a plain file of the test; nothing else is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent, "a test's file", time.time_ns)
        self._path = path

    def names(self) -> dict[str, int]:
        return {}

    def _read(self, name: str) -> Secret | None:
        text = self._path.read_text()
        return Secret(text, 0) if text else None

    def _write(self, name: str, secret: Secret | None) -> None:
        raise NotImplementedError


def live_once(setup_path: Path, token: Path, report: Path, mode: Mode) -> int:
    """One life of a loop, as `finsense live` or `finsense paper` gives it."""
    setup = load_live(setup_path)
    bundle = load_bundle(setup.bundle)
    try:
        source = KiteSource(setup, bundle.manifest, TokenFile(token))
        ended = trade(setup, mode, bundle, source, lambda name: "", Stopping())
    except HaltTrading as halt:
        structlog.get_logger().error("halted", why=str(halt))
        return HALTED
    except BooksDiffer as differ:
        structlog.get_logger().error("books differ", why=str(differ))
        return BOOKS
    except BrokerError as error:
        structlog.get_logger().error("broker", kind=type(error).__name__, why=str(error))
        return BROKER
    report.write_text(json.dumps(_summary(ended)))
    return OVER if ended.over else EARLY


def _summary(ended: Ended) -> dict[str, object]:
    return {
        "recovered": ended.recovered,
        "alarms": dict(ended.alarms),
        "refused": dict(ended.refused),
        "day": None if ended.day is None else ended.day.summary(),
    }


def _fork(setup: Path, token: Path, log: Path, mode: Mode) -> int:
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = BROKEN
    try:
        code = live_once(setup, token, log.with_suffix(".json"), mode)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    """Fork as told until stdin ends."""
    setup, token, log = map(Path, sys.argv[1:4])
    mode = cast(Mode, sys.argv[4] if len(sys.argv) > 4 else "live")
    # Compiled code and libraries are in memory before the first fork.
    load_bundle(load_live(setup).bundle)
    _say("ready")
    pid = 0
    for line in sys.stdin:
        if line.strip() == "start":
            pid = _fork(setup, token, log, mode)
            _say(str(pid))
        else:
            _, status = os.waitpid(pid, 0)
            _say(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
