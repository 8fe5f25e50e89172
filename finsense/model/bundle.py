"""A policy on disk: written whole or not at all, and refused when anything in it does not verify."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finsense.model.golden import Golden, GoldenError, verify_golden
from finsense.model.manifest import Manifest
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError

GRAPH, MANIFEST, GOLDEN, CONFIG, CARD, SUMS = (
    "policy.onnx",
    "bundle.json",
    "golden.npz",
    "config.yaml",
    "model_card.md",
    "SHA256SUMS",
)
_CONTENT = (GRAPH, MANIFEST, GOLDEN, CONFIG, CARD)


class BundleError(ValueError):
    """A bundle that is missing, damaged, or made for another version."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its folder.
        identity: SHA-256 (hex) of its SHA256SUMS, which covers every file.
        manifest: what it says of itself.
        policy: ready to decide.
        golden: the vectors it was verified with.
        config: the resolved experiment, YAML.
    """

    path: Path
    identity: str
    manifest: Manifest
    policy: OnnxPolicy
    golden: Golden
    config: str


def write_bundle(path: Path, graph: bytes, manifest: Manifest, golden: Golden, config: str, card: str) -> Bundle:
    """Write a bundle, verify it, and only then put it in the place of an older one.

    Raises:
        BundleError: it does not verify; what stood at `path` before is untouched.
        OSError: the disk is full or not writable; what stood at `path` before is untouched.
    """
    content = {
        GRAPH: graph,
        MANIFEST: manifest.model_dump_json(indent=2).encode(),
        GOLDEN: golden.to_bytes(),
        CONFIG: config.encode(),
        CARD: card.encode(),
    }
    sums = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in _CONTENT)
    return _place(path, {**content, SUMS: sums.encode()})


def copy_bundle(source: Path, path: Path) -> Bundle:
    """Put a verified copy of a bundle at `path`, in the place of an older one; errors as in `write_bundle`."""
    load_bundle(source)
    return _place(path, {name: (source / name).read_bytes() for name in (*_CONTENT, SUMS)})


def _place(path: Path, content: Mapping[str, bytes]) -> Bundle:
    """Write the files beside `path`, verify them there, and swap the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        _write_folder(fresh, content)
        load_bundle(fresh)
        _replace(path, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return load_bundle(path)


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and verify it: every file's hash, the state's columns, the golden vectors.

    Raises:
        BundleError: anything is missing or does not verify; the message says what.
    """
    if not path.is_dir():
        raise BundleError(f"expected a bundle folder at {path}, found {'a file' if path.exists() else 'nothing'}")
    content, identity = _read_verified(path)
    try:
        manifest = Manifest.model_validate_json(content[MANIFEST])
    except ValidationError as error:
        raise BundleError(f"{path / MANIFEST} is not a manifest that this version can read: {error}") from error
    _check_spec(path, manifest)
    try:
        policy = OnnxPolicy(content[GRAPH], manifest.state_width, len(manifest.actions))
        golden = Golden.from_bytes(content[GOLDEN])
        verify_golden(golden, policy, manifest.interval, manifest.state)
    except (OnnxPolicyError, GoldenError) as error:
        raise BundleError(f"{path} does not verify: {error}") from error
    return Bundle(path, identity, manifest, policy, golden, content[CONFIG].decode())


def _read_verified(path: Path) -> tuple[dict[str, bytes], str]:
    try:
        sums = (path / SUMS).read_bytes()
        content = {name: (path / name).read_bytes() for name in _CONTENT}
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a whole bundle: {Path(error.filename).name} is missing") from error
    expected: dict[str, str] = {}
    for line in sums.decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        expected[name] = digest
    for name in _CONTENT:
        found = hashlib.sha256(content[name]).hexdigest()
        if expected.get(name) != found:
            raise BundleError(
                f"{path / name} was changed after the export: expected SHA-256 {expected.get(name, 'none')}, "
                f"found {found}; export the bundle again"
            )
    return content, hashlib.sha256(sums).hexdigest()


def _check_spec(path: Path, manifest: Manifest) -> None:
    if manifest.state.hash() != manifest.state_hash or manifest.state.columns != manifest.columns:
        raise BundleError(
            f"{path} was trained on another state than this version builds from the same features: expected columns "
            f"{list(manifest.columns)}, found {list(manifest.state.columns)}; retrain, or use the exporting version"
        )
    if manifest.account.action_names != manifest.actions:
        raise BundleError(
            f"{path} has the actions {list(manifest.actions)}, this version's rules give "
            f"{list(manifest.account.action_names)}; retrain, or use the exporting version"
        )


def _write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in content.items():
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _replace(path: Path, fresh: Path) -> None:
    """Put the fresh folder at `path`; the old one is gone only when the new one stands."""
    if not path.exists():
        fresh.rename(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
