"""A sign of life to an external service, given only while the loop itself lives; when it stays away, it calls you."""

import threading
import time
from typing import Self

import structlog

from finsense.config.live import HeartbeatSettings
from finsense.live.alarms import Alarms, host_of
from finsense.live.plain_http import ask

# So many failures in a row make an alarm: one is often the network's.
_FAILURES = 3

log = structlog.get_logger()


class Heartbeat:
    """Asks the address every so many seconds in a thread of its own; use it in a `with` statement.

    The loop calls `beat` whenever it looks around. When it does not for `silence_s`, no sign of life leaves: a thread
    that goes on while the loop hangs would hide just what the service is there to find.

    Args:
        settings: of the YAML.
        address: where; the setting itself may name a secret.
        alarms: is told when the service cannot be reached.

    Attributes:
        sent: signs of life that were taken.
        failed: tries that failed.
        withheld: times that none was sent because the loop was silent.
    """

    def __init__(self, settings: HeartbeatSettings, address: str, alarms: Alarms | None = None) -> None:
        self._settings, self._address, self._alarms = settings, address, alarms
        self._beat_s = time.monotonic()
        self._stop = threading.Event()
        self.sent = self.failed = self.withheld = 0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # It is not waited for: it may hang in a request, and it ends with the process.
        self._stop.set()

    def beat(self) -> None:
        """The loop lives."""
        self._beat_s = time.monotonic()

    def _run(self) -> None:
        in_a_row = 0
        while True:
            if time.monotonic() - self._beat_s > self._settings.silence_s:
                self.withheld += 1
                log.warning("no sign of life is sent: the loop is silent")
            elif self._ping():
                in_a_row = 0
            else:
                in_a_row += 1
                if in_a_row == _FAILURES and self._alarms is not None:
                    host = host_of(self._address)
                    self._alarms.raise_("heartbeat", f"{host} did not take {in_a_row} signs of life in a row")
            if self._stop.wait(self._settings.every_s):
                return

    def _ping(self) -> bool:
        content = b"" if self._settings.method == "POST" else None
        try:
            ask(self._address, self._settings.timeout_s, method=self._settings.method, content=content)
        except (OSError, ValueError) as error:
            self.failed += 1
            log.warning("a sign of life was not taken", host=host_of(self._address), why=type(error).__name__)
            return False
        self.sent += 1
        return True
