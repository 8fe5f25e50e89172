"""Measures how closely TA-Lib agrees with our indicators on simulated bars; run it to write what docs/features.md says.

python tests/talib_agreement.py && finsense features list --markdown > docs/features.md
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import talib
import test_indicators_momentum as momentum
import test_indicators_price as price
import test_indicators_trend as trend
import test_indicators_volatility as volatility
import test_indicators_volume as volume
import yaml
from indicator_oracles import (
    SIMULATED_LAST,
    SIMULATED_MARKETS,
    Market,
    Pair,
    feature_of,
    first_value,
    fold,
    largest_difference,
    market_of,
    rows_of,
)

from finsense.market.simulate import SimulatedMarket
from finsense.market.timeline import INDEX_CLOSE
from finsense.state.registry import INDICATORS

FILE = Path(__file__).resolve().parents[1] / "finsense" / "cli" / "talib_agreement.yaml"

# A market and parameters -> what is compared, and from which bar on.
Compared = Callable[[Market, Any], tuple[list[Pair], int]]


class Agreement(NamedTuple):
    """What was measured of one indicator.

    Attributes:
        functions: of TA-Lib, in the order in which they are called.
        difference: the largest relative one, of all columns, on all markets.
    """

    functions: tuple[str, ...]
    difference: float


def index_correlation(m: Market, p: Any) -> tuple[list[Pair], int]:
    own, its = (np.diff(np.log(closes)) for closes in (m.close, m.rows[:, INDEX_CLOSE]))
    theirs = np.append(np.nan, talib.CORREL(own, its, int(p["window"])))
    return [Pair("index_correlation", fold(m.rows, "index_beta", **p)[:, 1], theirs, 1.0)], 0


def _in(module: Any, name: str) -> Compared:
    return lambda m, p: module.compared(name, m, p)


def _since_the_first(oracle: Callable[[Market, Any], list[Pair]]) -> Compared:
    return lambda m, p: (oracle(m, p), 0)


COMPARED: dict[str, Compared] = {
    **{name: _in(module, name) for module in (trend, momentum, volatility, volume) for name in module.TALIB},
    **{name: _since_the_first(oracle) for name, oracle in (price.TALIB | volume.SESSION_TALIB).items()},
    "index_beta": index_correlation,
}


@cache
def simulated_markets() -> tuple[Market, ...]:
    """The simulated bars of `SIMULATED_MARKETS`, beside an index."""
    drawn = [
        SimulatedMarket.model_validate(
            {
                "model": "random_walk",
                "interval": interval,
                "first": first,
                "last": SIMULATED_LAST,
                "seed": 7,
                "index": {},
            }
        )
        for interval, first in SIMULATED_MARKETS.values()
    ]
    return tuple(market_of(rows_of(one.load()["SIM"])) for one in drawn)


@contextmanager
def _called() -> Iterator[list[str]]:
    """The names of TA-Lib's functions that are called meanwhile."""
    names: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            names.append(name)
            return function(*given, **options)

        return call

    with ExitStack() as stack:
        for name in filter(str.isupper, dir(talib)):
            if not callable(getattr(talib, name)):
                continue
            stack.enter_context(patch.object(talib, name, noted(name, getattr(talib, name))))
        yield names


def measure(name: str) -> Agreement:
    """The agreement of an indicator with its default parameters."""
    parameters = feature_of(name).parameters
    differences = []
    with _called() as names:
        for market in simulated_markets():
            pairs, since = COMPARED[name](market, parameters)
            first = max(since, first_value(pairs))
            differences += [largest_difference(pair.mine, pair.theirs, first, scale=pair.scale) for pair in pairs]
    # The plain averages were looked up when their oracles were made.
    return Agreement(tuple(dict.fromkeys(names)) or (name.upper(),), max(differences))


def main() -> None:
    """Measure and write the file."""
    lines = [
        "# The largest relative difference between our indicators and TA-Lib on simulated bars. Written by",
        "# tests/talib_agreement.py; tests/test_talib_agreement.py measures it again.",
        f"talib: {talib.__version__}",
        f"bars: {sum(len(market.rows) for market in simulated_markets())}",
        "indicators:",
    ]
    for name in [name for name in INDICATORS if name in COMPARED]:
        found = measure(name)
        lines.append(f"  {name}: {{functions: [{', '.join(found.functions)}], difference: {found.difference:.1e}}}")
    text = "\n".join(lines) + "\n"
    assert set(yaml.safe_load(text)["indicators"]) == set(COMPARED)
    FILE.write_text(text)


if __name__ == "__main__":
    main()
