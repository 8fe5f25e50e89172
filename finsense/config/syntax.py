"""YAML text to a tree of values that know their place.

The scalars follow the core schema of YAML 1.2, not PyYAML's 1.1: `3e-4` is a number, `15:15` is a text and not 915,
`NO` and `ON` are texts and not booleans, `2023-07-03` is left to the field that reads it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from finsense.config.errors import Findings, Place

Scalar = str | int | float | bool | None

MAX_DEPTH = 50
MAX_NODES = 10_000
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_TAG = "tag:yaml.org,2002:"
_MAX_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a document and where it was written.

    Attributes:
        value: a scalar, a list of nodes, or a mapping of nodes.
        place: where the value stands.
        key_place: where its key stands; None for the root and for the items of a list.
    """

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    key_place: Place | None = None

    @property
    def anchor(self) -> Place:
        """The place that names this node: its key where it has one."""
        return self.key_place or self.place


@dataclass(frozen=True, slots=True)
class Source:
    """A text and its name: a file, or the value of an override, which starts at `offset` of its line."""

    name: str
    text: str
    directory: Path
    offset: int = 0
    override: bool = False

    def place(self, line: int, column: int, width: int) -> Place:
        """The place at a line and column counted from 0, as YAML's marks count them."""
        lines = _LINE_BREAK.split(self.text)
        line = min(line, len(lines) - 1)
        if line == 0:
            column += self.offset
        number = None if self.override else line + 1
        return Place(self.name, number, column + 1, max(1, width), lines[line], self.directory)

    @property
    def content(self) -> str:
        """The YAML part of the text."""
        return self.text[self.offset :]


# Tag, pattern of the whole scalar, characters it may begin with.
RESOLVERS: tuple[tuple[str, re.Pattern[str], list[str]], ...] = tuple(
    (_TAG + tag, re.compile(f"^(?:{pattern})$"), first)
    for tag, pattern, first in (
        ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", "[-+]?[0-9][0-9_]*", list("-+0123456789")),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    )
)


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}

for _resolver in RESOLVERS:
    _Loader.add_implicit_resolver(*_resolver)


def parse(source: Source, findings: Findings) -> Node | None:
    """The tree of a text, or None where it has none; what is wrong with it is added to `findings`.

    A text without content gives a node that holds None.
    """
    try:
        root = yaml.compose(source.content, _Loader)
    except yaml.MarkedYAMLError as error:
        _add_syntax_error(source, error, findings)
    except yaml.reader.ReaderError as error:
        before = _LINE_BREAK.split(source.content[: error.position])
        place = source.place(len(before) - 1, len(before[-1]), 1)
        character = error.character if isinstance(error.character, str) else chr(error.character)
        findings.add(f"not valid YAML: the character {character!r} is not allowed", place)
    except RecursionError:
        findings.add(f"nested deeper than {MAX_DEPTH} levels", source.place(0, 0, 1))
    else:
        return Node(None, source.place(0, 0, 1)) if root is None else _Tree(source, findings).build(root, ())
    return None


def parse_override_value(text: str, offset: int, directory: Path, findings: Findings) -> Node | None:
    """The tree of an override's value, which starts at `offset` of its text."""
    return parse(Source("--set", text, directory, offset, override=True), findings)


class _Tree:
    """Builds the nodes of one text; an alias is copied, so that no two places share a node."""

    def __init__(self, source: Source, findings: Findings) -> None:
        self.source = source
        self.findings = findings
        self.nodes = 0

    def build(self, node: yaml.Node, path: tuple[str, ...], key: Place | None = None) -> Node | None:
        place = self._place(node)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            return None
        if len(path) > MAX_DEPTH or self.nodes == MAX_NODES:
            # Nothing more is built: an alias that contains itself would go on for ever.
            self.nodes = MAX_NODES
            self.findings.add(f"nested deeper than {MAX_DEPTH} levels or more than {MAX_NODES} values", place)
        elif isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place, key)
        elif node.tag not in (_TAG + "map", _TAG + "seq"):
            self.findings.add(f"the tag `{node.tag}` is not supported", place)
        elif isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, path), place, key)
        else:
            items = [self.build(item, (*path, str(index))) for index, item in enumerate(node.value)]
            return Node([item for item in items if item is not None], place, key)
        return None

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.findings.add("a key must be a plain word", place)
                continue
            name = key_node.value
            first = entries.get(name)
            if first is not None:
                where = first.anchor.line
                hint = "" if where is None else f"first given on line {where}"
                self.findings.add(f"duplicate key `{name}` {under(path)}", place, hint, lost=False)
                continue
            value = self.build(value_node, (*path, name), place)
            if value is not None:
                entries[name] = value
        return entries

    def _scalar(self, node: yaml.ScalarNode, place: Place, key: Place | None) -> Node | None:
        kind = node.tag.removeprefix(_TAG)
        text: str = node.value
        if kind == "null":
            # An empty value has no text of its own to point at.
            return Node(None, place if text or key is None else key, key)
        if kind not in _READERS:
            self.findings.add(f"the tag `{node.tag}` is not supported", place)
            return None
        try:
            text.encode()
            return Node(_READERS[kind](text), place, key)
        except ValueError:
            self.findings.add(f"`{text.encode(errors='backslashreplace').decode()}` is not a valid {kind}", place)
            return None

    def _place(self, node: yaml.Node) -> Place:
        start, end = node.start_mark, node.end_mark
        # What runs over several lines is marked on its first one; rendering cuts the marker at the line's end.
        width = end.column - start.column if end.line == start.line else len(self.source.text)
        return self.source.place(start.line, start.column, width)


def under(path: Sequence[str]) -> str:
    """Words for where a key stands."""
    return f"under `{'.'.join(path)}`" if path else "at the top level"


def looks_like_another_type(text: str) -> bool:
    """Whether the text, written without quotes, would be a number, a boolean or null."""
    return any(pattern.match(text) for _, pattern, _ in RESOLVERS)


def _number(text: str) -> int | float:
    """A float, or an int for a whole number in exponent form: `1e6` steps are a million."""
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    exact = "e" in text.lower() and value.is_integer() and abs(value) < _MAX_EXACT_FLOAT
    return int(value) if exact else value


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_READERS: dict[str, Callable[[str], Scalar]] = {"str": str, "int": int, "float": _number, "bool": _boolean}


def _add_syntax_error(source: Source, error: yaml.MarkedYAMLError, findings: Findings) -> None:
    mark = error.problem_mark or error.context_mark
    place = source.place(mark.line, mark.column, 1) if mark else source.place(0, 0, 1)
    hint = ""
    if place.text[: place.column].endswith("\t"):
        hint = "a tab; YAML indents with spaces"
    elif error.context and error.context_mark:
        hint = f"{error.context} that starts on line {error.context_mark.line + 1}"
    findings.add(f"not valid YAML: {error.problem or error.context}", place, hint)
