"""How long a fresh process takes to import and to take its first step, with and without compiled kernels on disk."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measurement import Effort, Measurement, remark, spread

# Each runs in a process of its own and prints the seconds of its imports and of its first use.
_CLOCK = "import json, time; started_s = time.perf_counter()\n{imports}\nimported_s = time.perf_counter()\n{use}\n" + (
    "print(json.dumps([imported_s - started_s, time.perf_counter() - imported_s]))"
)
PROGRAMS: dict[str, str] = {
    # A training process: the environments of Stable-Baselines3, a tape, one step.
    "training": _CLOCK.format(
        imports="from benchmarks.markets import SYMBOL, account_rules, bars_of, tape_of\n"
        "from benchmarks.measurement import Effort\n"
        "from finsense.envs.vector import TradingVecEnv",
        use="envs = TradingVecEnv(tape_of(bars_of(Effort(), days=14)[SYMBOL]), account_rules(), 4)\n"
        "envs.reset()\n"
        "envs.step([1] * 4)",
    ),
    # A live box: no training code; bars through the session and the paper exchange until there is a state.
    "live": _CLOCK.format(
        imports="from benchmarks.markets import SYMBOL, bars_of, setting\n"
        "from benchmarks.measurement import Effort\n"
        "from finsense.account.exchange import SimulatedExchange\n"
        "from finsense.account.session import Session\n"
        "from finsense.live.loop import LiveLoop\n"
        "from finsense.market.instruments import instrument",
        use="terms, bars, stock = setting(), bars_of(Effort(), days=14)[SYMBOL], instrument(SYMBOL)\n"
        "session = Session(stock, bars.interval, terms.state, terms.account, terms.costs)\n"
        "exchange = SimulatedExchange(stock, bars.interval, terms.account, terms.costs)\n"
        "for bar in bars:\n"
        "    session.settle(exchange.fills(bar))\n"
        "    if session.observe(bar) is not None:\n"
        "        session.order(1)\n"
        "        break",
    ),
    # The state alone: every kernel of `full` loaded and called once.
    "state": _CLOCK.format(
        imports="import numpy as np\n"
        "from finsense.market.timeline import BAR_FIELDS\n"
        "from finsense.state.builder import StateBuilder\n"
        "from finsense.state.spec import StateSpec",
        use="builder = StateBuilder(StateSpec.model_validate({'features': ['full']}))\n"
        "for opens in (True, *[False] * 150, True):\n"
        "    builder.update(np.ones(BAR_FIELDS), opens)",
    ),
}


def start(effort: Effort, programs: Mapping[str, str] = PROGRAMS) -> list[Measurement]:
    """Seconds to import and to first use, cold (an empty numba cache) once and then warm; the ratio is cold / warm."""
    lines = []
    for name, program in programs.items():
        with tempfile.TemporaryDirectory() as cache:
            cold = _run(program, cache)
            warm = [_run(program, cache) for _ in range(effort.rounds)]
        for part, found, again in zip(("import", "first_use"), cold, zip(*warm, strict=True), strict=True):
            label, middle = f"start_{name}_{part}", statistics.median(again)
            remark(f"{label}: cold {found:.3g} s, warm {spread(again)} s")
            lines.append(Measurement(label, middle, "s", "itself with a cold numba cache", found, found / middle))
    return lines


def _run(program: str, cache: str) -> tuple[float, float]:
    """Seconds of the import and of the first use in a fresh process whose kernels are cached in the given folder."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        cwd=Path(__file__).resolve().parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    imported, used = json.loads(result.stdout)
    return float(imported), float(used)
