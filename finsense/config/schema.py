"""What the models say about a place in the document: its keys, its type in words, its coercions and its paths."""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from finsense.config.document import shown
from finsense.config.errors import Problem
from finsense.config.syntax import Node
from finsense.state.extension import absolute_reference

JsonSchema = dict[str, Any]
Route = tuple[str | int, ...]

_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_PATH_FORMATS = ("path", "file-path", "directory-path")
# A feature's name, which may begin with the file of a user's own indicator.
_INDICATOR = "indicator"
_FORMATS = {"date": "a date (YYYY-MM-DD)", "time": "a time (HH:MM)", **dict.fromkeys(_PATH_FORMATS, "a path")}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_SCALAR_TYPES = {"integer", "number", "string", "boolean", "null"}


class Schema:
    """The JSON Schema of a model, walked along a document.

    A place may have several candidates (an optional value, a union whose `kind` is not given yet).
    """

    def __init__(self, schema: JsonSchema) -> None:
        self.whole = schema
        self.discriminators = frozenset(_discriminators(schema))

    def root(self) -> list[JsonSchema]:
        """The candidates at the document's root."""
        return self._expand(self.whole, None)

    def at(self, route: Route, root: Node) -> list[JsonSchema]:
        """The candidates at a route; empty where the models say nothing."""
        candidates: list[JsonSchema] = self._expand(self.whole, root)
        node: Node | None = root
        for step in route:
            node = child(node, step)
            candidates = self.below(candidates, step, node)
        return candidates

    def below(self, candidates: Sequence[JsonSchema], step: str | int, node: Node | None) -> list[JsonSchema]:
        """The candidates of a child; `node` is the child, which picks the variant of a union by its kind."""
        found: list[JsonSchema] = []
        for candidate in candidates:
            if isinstance(step, int):
                fixed = candidate.get("prefixItems", [])
                inner = fixed[step] if step < len(fixed) else candidate.get("items")
            else:
                inner = candidate.get("properties", {}).get(step, candidate.get("additionalProperties"))
            if isinstance(inner, dict):
                found += self._expand(inner, node)
        return found

    def _expand(self, schema: JsonSchema, node: Node | None) -> list[JsonSchema]:
        """The schema with references followed and unions taken apart."""
        if "$ref" in schema:
            target: Any = self.whole
            for part in schema["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            return self._expand(target, node)
        discriminator = schema.get("discriminator")
        if discriminator:
            tag = child(node, discriminator["propertyName"])
            chosen = discriminator["mapping"].get(tag.value) if tag and isinstance(tag.value, str) else None
            if chosen:
                return self._expand({"$ref": chosen}, node)
        variants = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if variants:
            return [candidate for variant in variants for candidate in self._expand(variant, node)]
        return [schema]

    def homes(self, key: str) -> list[str]:
        """Dotted names of the sections that have this key, for a key that stands in the wrong one."""
        found: list[str] = []
        for section in self.whole.get("properties", {}):
            inner = self.below(self.root(), section, None)
            if any(key in candidate.get("properties", {}) for candidate in inner):
                found.append(section)
        return found


def child(node: Node | None, step: str | int) -> Node | None:
    """The node one step down, or None."""
    value = node.value if node is not None else None
    if isinstance(value, dict) and isinstance(step, str):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def keys(candidates: Sequence[JsonSchema]) -> list[str]:
    """The keys that any candidate has, in their order, without repetition."""
    return list(dict.fromkeys(name for candidate in candidates for name in candidate.get("properties", {})))


def choices(candidates: Sequence[JsonSchema]) -> list[str]:
    """The allowed values where the candidates enumerate them, as text."""
    values = [value for candidate in candidates for value in _enumerated(candidate)]
    return [str(value) for value in values]


def _enumerated(candidate: JsonSchema) -> list[Any]:
    return [candidate["const"]] if "const" in candidate else list(candidate.get("enum", []))


def suggestions(word: str, known: Sequence[str]) -> list[str]:
    """The nearest known words, best first."""
    by_lower = {name.lower(): name for name in reversed(known)}
    return [by_lower[near] for near in get_close_matches(word.lower(), list(by_lower), n=3, cutoff=0.6)]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The question that names the nearest known words, or an empty text."""
    near = [f"`{name}`" for name in suggestions(word, known)]
    return f"did you mean {' or '.join(near)}?" if near else ""


def describe(candidates: Sequence[JsonSchema]) -> str:
    """What the candidates accept, in words; empty where the schema has none."""
    numeric = any(candidate.get("type") == "number" for candidate in candidates)
    words: list[str] = []
    for candidate in candidates:
        # A Decimal accepts a number or a text with a pattern; the second is not worth a word.
        if numeric and "pattern" in candidate:
            continue
        words += _words(candidate)
    return " or ".join(dict.fromkeys(words))


def _words(candidate: JsonSchema) -> list[str]:
    enumerated = _enumerated(candidate)
    if enumerated:
        return [f"`{value}`" for value in enumerated]
    kind = candidate.get("type")
    if kind not in _WORDS:
        return []
    name = _FORMATS.get(candidate.get("format", ""), _WORDS[kind]) if kind == "string" else _WORDS[kind]
    bounds = [f"{sign} {candidate[bound]:.12g}" for bound, sign in _BOUNDS.items() if bound in candidate]
    sizes: list[str] = []
    for least, most in (("minItems", "maxItems"), ("minLength", "maxLength")):
        what = "items" if least == "minItems" else "characters"
        low, high = candidate.get(least), candidate.get(most)
        if low is not None:
            sizes.append(f"of {low} to {high} {what}" if high is not None else f"of at least {low} {what}")
        elif high is not None:
            sizes.append(f"of at most {high} {what}")
    if "pattern" in candidate:
        sizes.append(f"that matches {candidate['pattern']}")
    return [" ".join(filter(None, [name, " and ".join(bounds), *sizes]))]


def plain(node: Node, schema: Schema, candidates: Sequence[JsonSchema]) -> Any:
    """The tree as JSON values; a relative path becomes absolute from the directory of the text that states it."""
    if isinstance(node.value, dict):
        named = any(candidate.get("propertyNames", {}).get("format") == _INDICATOR for candidate in candidates)
        return {
            absolute_reference(key, value.anchor.directory) if named else key: plain(
                value, schema, schema.below(candidates, key, value)
            )
            for key, value in node.value.items()
        }
    if isinstance(node.value, list):
        return [plain(value, schema, schema.below(candidates, index, value)) for index, value in enumerate(node.value)]
    if isinstance(node.value, str) and any(candidate.get("format") in _PATH_FORMATS for candidate in candidates):
        return os.path.abspath(node.place.directory / os.path.expanduser(node.value))
    if isinstance(node.value, str) and any(candidate.get("format") == _INDICATOR for candidate in candidates):
        return absolute_reference(node.value, node.place.directory)
    return node.value


def coercions(root: Node, schema: Schema) -> Iterator[tuple[Route, Problem]]:
    """Scalars of another type than the models want, which pydantic would quietly convert ("12", yes, 1)."""
    yield from _coercions(root, schema, schema.at((), root), ())


def _coercions(
    node: Node, schema: Schema, candidates: Sequence[JsonSchema], route: Route
) -> Iterator[tuple[Route, Problem]]:
    steps: list[tuple[str | int, Node]] = []
    if isinstance(node.value, dict):
        steps = list(node.value.items())
    elif isinstance(node.value, list):
        steps = list(enumerate(node.value))
    else:
        types = {candidate.get("type") for candidate in candidates}
        if types and types <= _SCALAR_TYPES and not _type_names(node.value) & types:
            yield route, value_problem(route, node, candidates)
    for step, inner in steps:
        yield from _coercions(inner, schema, schema.below(candidates, step, inner), (*route, step))


def _type_names(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number"}
    return {"null"} if value is None else {"string"}


def value_problem(route: Route, node: Node, candidates: Sequence[JsonSchema], why: str = "") -> Problem:
    """The problem of a value that its place does not accept; `why` says more than the schema where it does not."""
    allowed = choices(candidates)
    expected = describe(candidates)
    parts = [f"expected {expected}, found {shown(node)}" if expected else f"{why}, found {shown(node)}"]
    if allowed and isinstance(node.value, str):
        parts.append(did_you_mean(node.value, allowed))
    notes = (why,) if why and expected else ()
    return Problem(f"bad value for `{dotted(route)}`", node.place, "; ".join(filter(None, parts)), notes)


def dotted(route: Route) -> str:
    """The route as a user writes it: `data.symbols.0`."""
    return ".".join(map(str, route))


def _discriminators(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("discriminator"), dict):
            yield schema["discriminator"]["propertyName"]
        for inner in schema.values():
            yield from _discriminators(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _discriminators(inner)
