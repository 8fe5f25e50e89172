"""A user's own indicators: loaded from the user's file, known by the hash of its source, carried with a bundle."""

import ast
import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from finsense.state.kernel_laws import Finding, declaration_problem, trial_finding
from finsense.state.registry import INDICATORS, Indicator, registering_into

ENTRY_POINTS = "finsense.indicators"
# The folder of a bundle that holds the files.
CARRIED_FOLDER = "indicators"

_FILE_NAME = re.compile(r"[\w-]+\.py")
# A file travels alone, to a box that has finsense and what finsense computes with.
_IMPORTABLE = frozenset({*sys.stdlib_module_names, "finsense", "numba", "numpy"})
_OURS = "finsense.state.indicators."


class ExtensionError(ValueError):
    """A user's indicator that cannot be found, loaded or trusted."""


class Source(BaseModel):
    """The file that holds a user's indicator; what counts is its content.

    Attributes:
        file: where it was read.
        sha256: of its bytes (hex).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path
    sha256: str


@dataclass(frozen=True)
class CarriedFiles:
    """The files of indicators that a verified bundle carries.

    Attributes:
        folder: where they lie.
        content: name -> bytes.
    """

    folder: Path
    content: Mapping[str, bytes]


@dataclass(frozen=True)
class _Loaded:
    """A file that was run: its bytes, and the indicators that it registered by their names."""

    file: Path
    content: bytes
    indicators: Mapping[str, Indicator]


# SHA-256 of the source -> the file. A source is run once, whatever names lead to it.
_loaded: dict[str, _Loaded] = {}


def is_reference(name: str) -> bool:
    """Whether a feature's name means a user's indicator: `file.py:function`, `package.module:function`, entry point."""
    return ":" in name or name in _entry_points()


def absolute_reference(name: str, directory: Path) -> str:
    """The name with a relative file made absolute from a directory; any other name as it is."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return name
    return f"{os.path.abspath(directory / os.path.expanduser(file))}:{function}"


def find_indicator(reference: str) -> tuple[Source, Indicator]:
    """The indicator that a reference names, and the file it stands in.

    Raises:
        ExtensionError: there is no such file, module or function, or the file cannot be run.
    """
    target = reference if ":" in reference else _entry_points().get(reference, "")
    place, _, function = target.rpartition(":")
    with _blamed(reference):
        file = Path(os.path.abspath(os.path.expanduser(place))) if place.endswith(".py") else _module_file(place)
        sha256 = _load(_read(file), file)
        return Source(file=file, sha256=sha256), _registered(sha256, function)


def indicator_of(source: Source, name: str, carried: CarriedFiles | None = None) -> Indicator:
    """The indicator of that name in a source that was named before, in this process, a config or a bundle.

    Args:
        source: the file and the hash of its content.
        name: of the function.
        carried: the files of the bundle that names it; no other place is then looked at.

    Raises:
        ExtensionError: the file is gone or its content is another one, or it has no such indicator.
    """
    if source.sha256 not in _loaded:
        file = source.file if carried is None else carried.folder / source.file.name
        with _blamed(f"{file}:{name}"):
            content = _read(file) if carried is None else carried.content.get(file.name)
            if content is None:
                raise ExtensionError("the bundle does not carry this file, which its state needs")
            found = hashlib.sha256(content).hexdigest()
            if found != source.sha256:
                raise ExtensionError(
                    f"the file was changed since it was named: expected SHA-256 {source.sha256}, found {found}; "
                    f"restore it, or name the indicator anew"
                )
            _load(content, file)
    with _blamed(f"{source.file}:{name}"):
        return _registered(source.sha256, name)


def loaded_file(source: Source) -> Path:
    """Where the source was run from in this process: the user's own file, or the one that a bundle carries."""
    return _loaded[source.sha256].file


def source_content(source: Source) -> bytes:
    """The bytes of a source as they were run, whatever became of the file since.

    Raises:
        ExtensionError: it was not run in this process.
    """
    if source.sha256 not in _loaded:
        raise ExtensionError(f"{source.file} was not run in this process, so its content is not known")
    return _loaded[source.sha256].content


def check_trusted(source: Source, name: str, parameters: Mapping[str, float]) -> None:
    """Try an indicator with these parameters on short random markets.

    Raises:
        ExtensionError: it breaks a law; the message names it, the law and the bar.
    """
    finding = _verdict(source.sha256, name, tuple(parameters.items()))
    if finding:
        raise ExtensionError(str(replace(finding, feature=f"{source.file}:{name}")))


@cache
def _verdict(sha256: str, name: str, parameters: tuple[tuple[str, float], ...]) -> Finding | None:
    return trial_finding(_registered(sha256, name), dict(parameters))


@contextmanager
def _blamed(reference: str) -> Iterator[None]:
    """Put the name of an indicator before what is wrong with it."""
    try:
        yield
    except ExtensionError as error:
        raise ExtensionError(f"`{reference}`: {error}") from error


def _registered(sha256: str, name: str) -> Indicator:
    """An indicator of a source that was run."""
    indicators = _loaded[sha256].indicators
    if name not in indicators:
        near = get_close_matches(name, indicators, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        known = f"; it has: {', '.join(indicators)}" if indicators else "; decorate a function with @indicator(...)"
        raise ExtensionError(f"the file has no indicator `{name}`{hint}{known}")
    return indicators[name]


def _load(content: bytes, file: Path) -> str:
    """Run a source unless that was done; its hash."""
    if not _FILE_NAME.fullmatch(file.name):
        raise ExtensionError(f"a file of indicators has a name like my_indicators.py, found {file.name!r}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 not in _loaded:
        registry: dict[str, Indicator] = {}
        code = _compiled(content, file)
        module = ModuleType(f"finsense_own_{sha256[:16]}.{file.stem}")
        module.__file__ = str(file)
        # numba and dataclasses look a function's module up by its name.
        sys.modules[module.__name__] = module
        try:
            with registering_into(registry):
                exec(code, module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[module.__name__]
            raise ExtensionError(f"the file cannot be run: {_last_line(error, file)}") from error
        _check_registered(registry)
        _loaded[sha256] = _Loaded(file, content, registry)
    return sha256


def _compiled(content: bytes, file: Path) -> Any:
    """The code of a source that imports nothing but what every box has."""
    try:
        tree = ast.parse(content, str(file))
        code = compile(tree, str(file), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line, text = getattr(error, "lineno", None), getattr(error, "text", None) or ""
        where = f"line {line}, `{text.strip()}`: " if line else ""
        raise ExtensionError(f"the file is not Python: {where}{getattr(error, 'msg', None) or error}") from error
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        inside = "." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        for name in [inside] if inside else [alias.name for alias in node.names]:
            if name.partition(".")[0] not in _IMPORTABLE:
                raise ExtensionError(
                    f"line {node.lineno} imports `{name}`; a file of indicators travels alone in the bundle, "
                    f"so it imports the standard library, numpy, numba and finsense, and nothing else"
                )
    return code


def _check_registered(registry: Mapping[str, Indicator]) -> None:
    """Refuse names that are taken, and indicators that do not say what they are."""
    for name, indicator in registry.items():
        if name in INDICATORS and INDICATORS[name].kernel.__module__.startswith(_OURS):
            raise ExtensionError(f"`{name}` is the name of a built-in indicator; choose another one")
        problem = declaration_problem(indicator)
        if problem:
            raise ExtensionError(f"`{name}`: {problem}")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExtensionError(f"cannot read the file: {reason}") from error


def _last_line(error: BaseException, file: Path) -> str:
    """What a file raised and the line of it that did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    where = f"line {frames[-1].lineno}, `{frames[-1].line}`: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


def _entry_points() -> dict[str, str]:
    """Name -> `package.module:function` of the installed packages' entry points."""
    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}


def _module_file(module: str) -> Path:
    """The source file of an installed module, which is not imported: it is run as a file is."""
    try:
        found = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError) as error:
        raise ExtensionError(f"the module `{module}` cannot be found: {error}") from error
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise ExtensionError(
            f"there is no module `{module}` with a Python source; write `path/to/file.py:function`, "
            f"`package.module:function`, or the name of an entry point of the group `{ENTRY_POINTS}`"
        )
    return Path(found.origin)
