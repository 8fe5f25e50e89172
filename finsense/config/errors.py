"""Problems of a configuration, each with its place, rendered the way a compiler shows them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LONGEST_ECHO = 160


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of one line, in a file or in an override.

    Attributes:
        name: the file as the user can open it, or `--set` for an override.
        line: line number from 1; None for an override.
        column: column number from 1.
        width: number of characters marked, at least 1.
        text: the whole line.
        directory: what a relative path that is written here is relative to.
    """

    name: str
    line: int | None
    column: int
    width: int
    text: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.name} {self.text}" if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it stands and what to do.

    Attributes:
        message: what is wrong, one sentence without a full stop.
        place: where; None when the problem has no text to point at.
        hint: short words beside the caret: what was expected and found, or the nearest valid key.
        notes: further lines, such as the allowed keys.
    """

    message: str
    place: Place | None
    hint: str = ""
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """The problem with its source line and a caret; several lines without a final line break."""
        head = f"error[config]: {self.message}"
        if self.place is None:
            return "\n".join([head, *(f"   = {note}" for note in (self.hint, *self.notes) if note)])
        place = self.place
        number = "" if place.line is None else str(place.line)
        gutter = " " * (len(number) or 2)
        where = place.name if place.line is None else f"{place.name}:{place.line}:{place.column}"
        echoed, column = _echo(place)
        marker = " " * column + "^" * max(1, min(place.width, len(echoed) - column))
        return "\n".join(
            [
                head,
                f"{gutter}--> {where}",
                f"{gutter} |",
                f"{number or gutter} | {echoed}".rstrip(),
                f"{gutter} | {marker} {self.hint}".rstrip(),
                *(f"{gutter} = {note}" for note in self.notes),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """The problem as `config validate --json` prints it; an override has its text as file and no line."""
        place = self.place
        return {
            "message": self.message,
            "file": None if place is None else (place.name if place.line is not None else str(place)),
            "line": None if place is None else place.line,
            "column": None if place is None else place.column,
            "hint": "; ".join(filter(None, (self.hint, *self.notes))) or None,
        }


@dataclass(slots=True)
class Findings:
    """What reading the texts has brought up so far.

    Attributes:
        problems: everything that is wrong.
        complete: False when something could not be read, so that a missing key means nothing.
    """

    problems: list[Problem] = field(default_factory=list)
    complete: bool = True

    def add(self, message: str, place: Place, hint: str = "", *, lost: bool = True) -> None:
        """Note a problem; `lost` says that what stands there could not be taken into the document."""
        self.problems.append(Problem(message, place, hint))
        self.complete = self.complete and not lost


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=_reading_order)
        super().__init__("\n\n".join(problem.render() for problem in self.problems))


def _echo(place: Place) -> tuple[str, int]:
    """The line as it is shown, and the column from 0 of the mark in it; a long line is cut around the mark."""
    # A tab would widen the line but not the carets below it; other control characters would act on the terminal.
    text = "".join(character if character.isprintable() else " " for character in place.text).rstrip()
    column = place.column - 1
    start = max(0, column - _LONGEST_ECHO // 2) if len(text) > _LONGEST_ECHO else 0
    shown = text[start : start + _LONGEST_ECHO]
    before, after = "..." if start else "", "..." if start + _LONGEST_ECHO < len(text) else ""
    return before + shown + after, column - start + len(before)


def _reading_order(problem: Problem) -> tuple[bool, str, int, int]:
    """Files line by line, then the overrides in the order in which they were found."""
    place = problem.place
    if place is None or place.line is None:
        return True, "", 0, 0
    return False, place.name, place.line, place.column
