"""Resolved values as plain JSON values and as YAML."""

from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from finsense.config.syntax import RESOLVERS

_WIDTH = 1_000_000


class _Dumper(yaml.SafeDumper):
    """Quotes what this reader or a YAML 1.1 reader would take for a number; mappings as blocks, lists in a line."""


# A date needs no quotes: every reader takes it for that date.
_Dumper.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)
for _resolver in RESOLVERS:
    _Dumper.add_implicit_resolver(*_resolver)


def to_plain(value: Any, path: Callable[[Path], str] = str) -> Any:
    """The value of a model as JSON values; equal values give equal results, however they were written.

    Args:
        value: what `model_dump()` gives.
        path: how a path becomes a text.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner, path) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner, path) for inner in value]
    if isinstance(value, Path):
        return path(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a configuration holds numbers, texts, dates, times and paths, found {value!r}")


def to_yaml(values: Any) -> str:
    """The values as a YAML document, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)


def to_annotated_yaml(values: Mapping[str, Any], origin: Callable[[tuple[str, ...]], str]) -> str:
    """The values as YAML with a comment behind each that says where it comes from.

    Args:
        values: plain values.
        origin: route of a value -> where it was written.
    """
    return "\n".join(_annotated(values, origin, ())) + "\n"


def _annotated(
    values: Mapping[str, Any], origin: Callable[[tuple[str, ...]], str], route: tuple[str, ...]
) -> list[str]:
    lines: list[str] = []
    indent = "  " * len(route)
    for key, value in values.items():
        here = (*route, key)
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{key}:", *_annotated(value, origin, here)]
        else:
            lines.append(f"{indent}{to_yaml({key: value}).rstrip()}  # {origin(here)}")
    return lines
