"""A part of a report that is not about trading: words, tables and figures under a heading."""

from dataclasses import dataclass

from finsense.evaluation.charts import Figure


@dataclass(frozen=True, slots=True)
class Table:
    """Plain text in rows; the first cell of each names it.

    Attributes:
        header: one text per column.
        rows: as many texts each.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, in this order."""

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
