"""Pydantic's errors as problems with a place, a reason and a way out."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from finsense.config.document import EXTENDS, shown
from finsense.config.errors import Problem
from finsense.config.schema import (
    Route,
    Schema,
    child,
    choices,
    describe,
    did_you_mean,
    dotted,
    keys,
    suggestions,
    value_problem,
)
from finsense.config.syntax import Node, under

# Raised by validators of ours: the text is theirs and complete.
_WORDED = ("value_error", "assertion_error")
CONTRADICTION = "contradiction"


def diagnose(
    errors: Sequence[Mapping[str, Any]], root: Node, schema: Schema, *, complete: bool
) -> dict[Route, Problem]:
    """One problem per place.

    Args:
        errors: as `ValidationError.errors()` gives them.
        root: the document.
        schema: the models' schema.
        complete: False when a file could not be read; a missing key is then no problem of its own.
    """
    found: dict[Route, Problem] = {}
    misspelt: dict[Route, list[str]] = {}
    missing: list[tuple[Route, str, Node]] = []
    for error in errors:
        route, rest = _route(error, root)
        kind = error["type"]
        node = _node(root, route)
        if kind == "extra_forbidden":
            found[route], misspelt[route] = _unknown_key(route, node, root, schema)
        elif kind == "missing":
            missing.append((route, str(rest[-1]), node))
        elif kind == "union_tag_not_found":
            tag = str(error["ctx"]["discriminator"]).strip("'")
            missing.append((route, tag, node))
            # Without its kind, pydantic looks at none of the mapping's keys: a key that no kind has is wrong anyway.
            allowed = keys(schema.at(route, root))
            for key in [key for key in _mapping(node) if key not in allowed]:
                where = (*route, key)
                found[where], misspelt[where] = _unknown_key(where, _mapping(node)[key], root, schema)
        elif kind == "union_tag_invalid":
            tag = str(error["ctx"]["discriminator"]).strip("'")
            where = (*route, tag)
            found.setdefault(where, value_problem(where, _node(root, where), schema.at(where, root)))
        elif kind in _WORDED or kind == CONTRADICTION:
            found.setdefault(route, _worded(route, node, error))
        else:
            why = str(error.get("ctx", {}).get("error", ""))
            candidates = schema.at(route, root)
            reason = why if describe(candidates) else error["msg"]
            found.setdefault(route, value_problem(route, node, candidates, reason))
    for route, name, node in missing:
        explained = any(where[:-1] == route and name in near for where, near in misspelt.items())
        if complete and not explained:
            found.setdefault((*route, name), _missing_key(route, name, node, root, schema))
    return found


def section_errors(error: ValidationError) -> list[Mapping[str, Any]]:
    """The single errors, without the links to pydantic's own pages."""
    return [dict(single) for single in error.errors(include_url=False)]


def _route(error: Mapping[str, Any], root: Node) -> tuple[Route, tuple[str | int, ...]]:
    """The error's location as far as the document goes, and what is left of it.

    Pydantic puts the variant of a union into the location; the document has no such key, so it is passed over.
    """
    route: list[str | int] = []
    node = root
    location = tuple(error["loc"])
    for step in location:
        inner = child(node, step)
        if inner is None:
            continue
        route.append(step)
        node = inner
    return tuple(route), location


def _node(root: Node, route: Route) -> Node:
    node = root
    for step in route:
        node = child(node, step) or node
    return node


def _mapping(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _unknown_key(route: Route, node: Node, root: Node, schema: Schema) -> tuple[Problem, list[str]]:
    key = str(route[-1])
    parent = route[:-1]
    allowed = keys(schema.at(parent, root)) + ([] if parent else [EXTENDS])
    hint = did_you_mean(key, allowed)
    homes = [f"`{home}`" for home in schema.homes(key) if (home,) != parent]
    if homes and not hint:
        hint = f"it belongs under {' or '.join(homes)}"
    notes = (f"allowed: {', '.join(allowed)}",) if allowed else ()
    message = f"unknown key `{key}` {under([str(step) for step in parent])}"
    return Problem(message, node.anchor, hint, notes), suggestions(key, allowed)


def _missing_key(route: Route, name: str, node: Node, root: Node, schema: Schema) -> Problem:
    candidates = schema.below(schema.at(route, root), name, None)
    expected = describe(candidates)
    allowed = choices(candidates)
    notes = (f"allowed: {', '.join(allowed)}",) if allowed else (f"expected: {expected}",) if expected else ()
    message = f"missing required key `{name}` {under([str(step) for step in route])}"
    return Problem(message, node.anchor, f"add `{name}: ...` here", notes)


def _worded(route: Route, node: Node, error: Mapping[str, Any]) -> Problem:
    """A validator's own words, at the value that they mention first."""
    text = str(error["ctx"].get("error") or error["ctx"].get("reason") or error["msg"])
    name = f"`{dotted(route)}`: " if route else ""
    while (blamed := _mentioned(node, text)) is not None:
        node = blamed
    hint = "" if isinstance(node.value, dict | list) else f"found {shown(node)}"
    return Problem(f"{name}{text}", node.anchor, hint)


def _mentioned(node: Node, text: str) -> Node | None:
    """The child of a node whose key (in a list: whose text, or first key) the text mentions first, if any."""
    words = _words(text)
    named: list[tuple[str, Node]] = []
    if isinstance(node.value, dict):
        named = list(node.value.items())
    elif isinstance(node.value, list):
        for item in node.value:
            named += [(name, item) for name in ([item.value] if isinstance(item.value, str) else _mapping(item))]
    found = [(place, inner) for name, inner in named if name and (place := words.find(_words(name))) >= 0]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _words(text: str) -> str:
    """The words of a text, with one blank between them and around them."""
    letters = "".join(character if character.isalnum() or character == "_" else " " for character in text)
    return f" {' '.join(letters.split())} "
