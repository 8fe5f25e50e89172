"""Words the refusal of vendor rows: how many, and the first three of them."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from finsense.market.bars import BarsError

_ROWS_SHOWN = 3


def refuse_rows(at_fault: npt.NDArray[np.bool_], what: str, frame: pd.DataFrame, symbol: str) -> None:
    """Refuse a frame when any of its rows is at fault.

    Args:
        at_fault: (n,) bool, one per row of `frame`.
        what: What the rows do wrong and what to do about it, as in "have no volume; ...".
        frame: The rows as the vendor gave them, shown in the message under their index labels.
        symbol: Whose rows they are.

    Raises:
        BarsError: With the count and the first three rows at fault.
    """
    rows = np.flatnonzero(at_fault)
    if len(rows):
        shown = "".join(f"\n  row {frame.index[row]}: {row_text(frame, int(row))}" for row in rows[:_ROWS_SHOWN])
        raise BarsError(f"{symbol}: {len(rows)} of {len(frame)} rows {what}:{shown}")


def row_text(frame: pd.DataFrame, row: int) -> str:
    """One row of a frame as `column value` pairs."""
    return " ".join(f"{name} {frame[name].iloc[row]}" for name in frame.columns)
