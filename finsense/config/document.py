"""Layers of one configuration: the file, the files it extends and the overrides, merged into one tree."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from finsense.config.errors import Findings, Place
from finsense.config.syntax import Node, Source, looks_like_another_type, parse, parse_override_value

EXTENDS = "extends"


@dataclass(frozen=True, slots=True)
class Document:
    """The merged tree and what is wrong with its text.

    Attributes:
        root: a node that holds a mapping; empty where nothing could be read.
        findings: what is wrong with the text, the files and the overrides.
    """

    root: Node
    findings: Findings


def read_document(path: str | os.PathLike[str], overrides: Sequence[str], discriminators: Collection[str]) -> Document:
    """Read a file with everything it extends, and apply the overrides in their order.

    Mappings are merged key by key, and what extends wins; lists and scalars replace. A mapping whose discriminator
    (`kind`) differs from the one below replaces it whole, for its keys mean something else.

    Raises:
        OSError: The file itself cannot be read; a file that it extends is a problem of the document instead.
    """
    file = Path(path)
    layers = _Layers(frozenset(discriminators), Findings())
    root = layers.read(file, file.read_bytes(), ()) or Node({}, Place(str(file), 1, 1, 1, "", file.parent))
    for text in overrides:
        _apply_override(root, text, layers.findings)
    return Document(root, layers.findings)


@dataclass(frozen=True, slots=True)
class _Layers:
    """Reads files depth first and lays them on each other."""

    discriminators: frozenset[str]
    findings: Findings

    def read(self, file: Path, content: bytes, below: tuple[Path, ...]) -> Node | None:
        """The tree of a file merged onto what it extends; `below` are the files that led here."""
        root = self._parse(file, content)
        if root is None:
            return None
        entries = dict(_entries(root))
        extended = entries.pop(EXTENDS, None)
        own = replace(root, value=entries)
        base = None if extended is None else self._extended(extended, (*below, file))
        return own if base is None else self.merge(base, own)

    def merge(self, base: Node, over: Node) -> Node:
        """The node `over` laid on `base`; both stay as they are."""
        if not isinstance(base.value, dict) or not isinstance(over.value, dict) or self._other_kind(base, over):
            return over
        merged = dict(base.value)
        for key, node in over.value.items():
            merged[key] = self.merge(merged[key], node) if key in merged else node
        return replace(over, value=merged)

    def _other_kind(self, base: Node, over: Node) -> bool:
        below, above = _entries(base), _entries(over)
        shared = self.discriminators & below.keys() & above.keys()
        return any(below[key].value != above[key].value for key in shared)

    def _parse(self, file: Path, content: bytes) -> Node | None:
        """The mapping that a file holds, or None."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            good = content[: error.start].decode(errors="replace")
            source = Source(str(file), content.decode(errors="replace"), file.parent)
            place = source.place(good.count("\n"), len(good) - good.rfind("\n") - 1, 1)
            self.findings.add("the file is not UTF-8 text", place, "this byte")
            return None
        root = parse(Source(str(file), text, file.parent), self.findings)
        if root is None or isinstance(root.value, dict):
            return root
        hint = "the file is empty" if root.value is None else f"found {shown(root)}"
        self.findings.add("the file must hold a mapping of keys to values", root.place, hint)
        return None

    def _extended(self, node: Node, chain: tuple[Path, ...]) -> Node | None:
        if not isinstance(node.value, str) or not node.value:
            self.findings.add(f"`{EXTENDS}` must name one file", node.place, f"found {shown(node)}")
            return None
        file = Path(os.path.normpath(node.place.directory / os.path.expanduser(node.value)))
        try:
            if os.path.realpath(file) in map(os.path.realpath, chain):
                circle = " -> ".join(map(str, [*chain, file]))
                self.findings.add(f"`{EXTENDS}` runs in a circle: {circle}", node.place)
                return None
            content = file.read_bytes()
        except (OSError, ValueError) as error:
            # ValueError: no file can have such a name.
            reason = getattr(error, "strerror", None) or str(error)
            message = f"cannot read the file that `{EXTENDS}` names: {reason.lower()}"
            self.findings.add(message, node.place, f"looked for {file}")
            return None
        return self.read(file, content, chain)


def _entries(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}


def _apply_override(root: Node, text: str, findings: Findings) -> None:
    """Write the value of `a.b.0=value` into the tree, as if the file had it there."""
    key, equals, _ = text.partition("=")
    whole = Place("--set", None, 1, len(text), text, Path.cwd())
    names = key.split(".")
    if not equals or not all(name.strip() for name in names):
        findings.add("an override must read key=value or section.key=value", whole)
        return
    ends = list(accumulate(len(name) + 1 for name in names))
    places = [replace(whole, column=end - len(name), width=len(name)) for name, end in zip(names, ends, strict=True)]
    if names[0] == EXTENDS:
        findings.add(f"`{EXTENDS}` cannot be overridden", places[0], "put it into a file")
        return
    value = parse_override_value(text, len(key) + 1, whole.directory, findings)
    names = [name.strip() for name in names]
    parent: Node | None = root
    for depth in range(len(names) - 1):
        parent = _step(parent, names, places, depth, findings) if parent is not None else None
    if value is not None and parent is not None:
        _write(parent, names, replace(value, key_place=places[-1]), findings)


def _step(node: Node, names: Sequence[str], places: Sequence[Place], depth: int, findings: Findings) -> Node | None:
    """The child that the name at `depth` leads to, made where the mapping lacks it; None after a problem."""
    name, place = names[depth], places[depth]
    if isinstance(node.value, list):
        index = _index(name, len(node.value))
        if index is not None:
            return node.value[index]
        _add_bad_index(names[:depth], place, len(node.value), findings)
        return None
    if not isinstance(node.value, dict):
        findings.add(f"`{'.'.join(names[:depth])}` holds {shown(node)}, so it has no key `{name}`", place)
        return None
    inner = node.value.get(name)
    if inner is not None and inner.value is not None:
        return inner
    if names[depth + 1].isdigit():
        here = ".".join(names[: depth + 1])
        findings.add(f"`{here}` is not written in the file", place, f"give the whole list: {here}=[...]")
        return None
    inner = node.value[name] = Node({}, place, place)
    return inner


def _write(parent: Node, names: Sequence[str], value: Node, findings: Findings) -> None:
    """Put the value under the last name; the place behind a list's last item adds to it."""
    name, place = names[-1], value.anchor
    if isinstance(parent.value, dict):
        parent.value[name] = value
    elif isinstance(parent.value, list):
        size = len(parent.value) + 1
        index = _index(name, size)
        if index is None:
            _add_bad_index(names[:-1], place, size, findings)
        else:
            parent.value[index : index + 1] = [value]
    else:
        findings.add(f"`{'.'.join(names[:-1])}` holds {shown(parent)}, so it has no key `{name}`", place)


def _index(name: str, size: int) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and int(name) < size else None


def _add_bad_index(names: Sequence[str], place: Place, size: int, findings: Findings) -> None:
    hint = f"allowed: 0 to {size - 1}" if size else "the list is empty"
    findings.add(
        f"`{'.'.join(names)}` is a list without a place `{place.text[place.column - 1 :][: place.width]}`", place, hint
    )


def shown(node: Node) -> str:
    """The value as an error message shows it."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, str) and looks_like_another_type(value):
        text = f'"{value}"'
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"
