"""The peers of the states: TA-Lib's functions and streams, and the table of `ta`, on the same bars."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import ta
import talib
from numpy.typing import NDArray
from talib import stream

from finsense.market.bars import Bars

Floats = NDArray[np.float64]
# A function's series: (n,) float64 each.
Series = tuple[Floats, ...]


class Call(NamedTuple):
    """One call of TA-Lib: its function, the fields it reads, its parameters."""

    function: str
    fields: tuple[str, ...]
    parameters: tuple[float, ...] = ()


_C, _V = ("close",), ("volume",)
_HL, _HLC, _HLCV = ("high", "low"), ("high", "low", "close"), ("high", "low", "close", "volume")
_CV = ("close", "volume")

# Indicator of ours -> the calls that give what TA-Lib has of it, with the default parameters of ours.
CALLS: dict[str, tuple[Call, ...]] = {
    "sma": (Call("SMA", _C, (20,)),),
    "ema": (Call("EMA", _C, (14,)),),
    "wma": (Call("WMA", _C, (9,)),),
    "macd": (Call("MACD", _C, (12, 26, 9)),),
    "trend": (Call("LINEARREG_SLOPE", ("log_close",), (20,)), Call("ER", ("log_close",), (19,))),
    "trix": (Call("TRIX", _C, (15,)),),
    "mass_index": (Call("MASSI", _HL, (9, 25)),),
    "dpo": (Call("DPO", _C, (20,)),),
    "aroon": (Call("AROON", _HL, (25,)),),
    "cci": (Call("CCI", _HLC, (20,)),),
    "ichimoku": tuple(Call("MIDPRICE", _HL, (window,)) for window in (9, 26, 52)),
    "psar": (Call("SAR", _HL, (0.02, 0.2)),),
    "adx": tuple(Call(name, _HLC, (14,)) for name in ("ADX", "PLUS_DI", "MINUS_DI")),
    "vortex": (Call("VORTEX", _HLC, (14,)),),
    "rsi": (Call("RSI", _C, (14,)),),
    "roc": (Call("ROCP", _C, (12,)),),
    "tsi": (Call("TSI", _C, (25, 13)),),
    "ao": (Call("AO", _HL, (5, 34)),),
    "kama": (Call("KAMA", _C, (10,)),),
    "ppo": (Call("PPO", _C, (12, 26, 1)),),
    "pvo": (Call("PVO", _V, (12, 26, 1)),),
    "stoch": (Call("STOCHF", _HLC, (14, 3, 0)),),
    "wr": (Call("WILLR", _HLC, (14,)),),
    "stoch_rsi": (Call("STOCHRSI", _C, (14, 14, 3, 0)),),
    "uo": (Call("ULTOSC", _HLC, (7, 14, 28)),),
    "atr": (Call("NATR", _HLC, (14,)),),
    "bb": (Call("BBANDS", _C, (20, 2.0, 2.0)),),
    "kc": (Call("KC", _HLC, (20, 10, 2.0)),),
    "dc": (Call("DONCHIAN", _HL, (20,)),),
    "drawdown_state": (Call("MAX", _C, (60,)), Call("MAXINDEX", _C, (60,))),
    "obv": (Call("OBV", _CV),),
    "vpt": (Call("PVT", _CV),),
    "nvi": (Call("NVI", _CV),),
    "fi": (Call("EFI", _CV, (13,)),),
    "adi": (Call("AD", _HLCV),),
    "cmf": (Call("CMF", _HLCV, (20,)),),
    "mfi": (Call("MFI", _HLCV, (14,)),),
    "session_vwap": (Call("VWAP", _HLCV),),
}


def _oscillator(found: Series) -> Series:
    signal = talib.EMA(found[0], 9)
    return (*found, signal, found[0] - signal)


# What the last columns of these take besides.
DERIVED: dict[str, Callable[[Series], Series]] = {
    "ichimoku": lambda found: (*found, 0.5 * (found[0] + found[1])),
    "ppo": _oscillator,
    "pvo": _oscillator,
    "stoch_rsi": lambda found: (*found, talib.SMA(found[1], 3)),
}


def fields_of(bars: Bars) -> dict[str, Floats]:
    """The bars as TA-Lib takes them."""
    return {
        "open": bars.open,
        "high": bars.high,
        "low": bars.low,
        "close": bars.close,
        "volume": bars.volume.astype(np.float64),
    }


def talib_columns(fields: Mapping[str, Floats]) -> Iterator[tuple[str, Series]]:
    """The columns of `CALLS` over all bars, (n,) float64 each; the logarithm for the trend is part of the work."""
    known = {**fields, "log_close": talib.LN(fields["close"])}
    for name, calls in CALLS.items():
        found = _flat(_called(call, known) for call in calls)
        yield name, DERIVED[name](found) if name in DERIVED else found


def _called(call: Call, fields: Mapping[str, Floats]) -> Any:
    return getattr(talib, call.function)(*(fields[name] for name in call.fields), *call.parameters)


def _flat(results: Iterable[Any]) -> Series:
    """One function gives an array, another a tuple of them."""
    return tuple(column for result in results for column in (result if isinstance(result, tuple) else (result,)))


class TalibStreams:
    """One stream of TA-Lib for each call; it takes a bar at a time and gives all values of it.

    The fields are those of the history that fills them, and besides `log_close` for the trend.
    """

    def __init__(self, fields: Mapping[str, Floats]) -> None:
        self._streams = [
            (getattr(stream, call.function)(*(fields[name] for name in call.fields), *call.parameters), call.fields)
            for calls in CALLS.values()
            for call in calls
        ]

    def update(self, bar: Mapping[str, float]) -> list[Any]:
        """The values of one bar more: a number or several for each call."""
        return [handle.update(*(bar[name] for name in fields)) for handle, fields in self._streams]


def ta_table(fields: Mapping[str, Floats]) -> pd.DataFrame:
    """All features of `ta`, (n, 86) and the bars; the fields are open, high, low, close and volume, in this order."""
    with warnings.catch_warnings():
        # `ta` 0.11 was written for an older pandas, and divides by zero on its way.
        warnings.simplefilter("ignore")
        table: pd.DataFrame = ta.add_all_ta_features(pd.DataFrame(dict(fields)), *fields)
    return table
