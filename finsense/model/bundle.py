"""A policy on disk: written whole or not at all, and refused when anything in it does not verify."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finsense.model.golden import Golden, GoldenError, verify_golden
from finsense.model.manifest import Manifest
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError
from finsense.state.extension import CARRIED_FOLDER, CarriedFiles

GRAPH, MANIFEST, GOLDEN, CONFIG, CARD, SUMS = (
    "policy.onnx",
    "bundle.json",
    "golden.npz",
    "config.yaml",
    "model_card.md",
    "SHA256SUMS",
)
_CONTENT = (GRAPH, MANIFEST, GOLDEN, CONFIG, CARD)
# A user's own indicators. They are Python that is run when the bundle is loaded, as nothing else in it is.
_CARRIED = re.compile(rf"{CARRIED_FOLDER}/[\w-]+\.py")


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

    The files of the user's own indicators go into it as they were run, whatever became of them since.

    Raises:
        BundleError: it does not verify; what stood at `path` before is untouched.
        OSError: the disk is full or not writable; what stood at `path` before is untouched.
    """
    placed = manifest.model_copy(update={"state": manifest.state.as_carried()})
    content = {
        GRAPH: graph,
        MANIFEST: placed.model_dump_json(indent=2).encode(),
        GOLDEN: golden.to_bytes(),
        CONFIG: config.encode(),
        CARD: card.encode(),
        **manifest.state.carried_files(),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())
    return _place(path, {**content, SUMS: sums.encode()})


def copy_bundle(source: Path, path: Path) -> Bundle:
    """Put a verified copy of a bundle at `path`, in the place of an older one; errors as in `write_bundle`."""
    carried = load_bundle(source).manifest.state.carried_files()
    return _place(path, {name: (source / name).read_bytes() for name in (*_CONTENT, *carried, SUMS)})


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

    A bundle that carries the user's own indicators brings Python code; it is run once its hash has been checked.

    Raises:
        BundleError: anything is missing or does not verify; the message says what.
    """
    if not path.is_dir():
        raise BundleError(f"expected a bundle folder at {path}, found {'a file' if path.exists() else 'nothing'}")
    content, identity = _read_verified(path)
    try:
        carried = {Path(name).name: data for name, data in content.items() if _CARRIED.fullmatch(name)}
        manifest = Manifest.model_validate_json(content[MANIFEST], context=CarriedFiles(path / CARRIED_FOLDER, carried))
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
        expected: dict[str, str] = {}
        for line in sums.decode(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            expected[name] = digest
        names = (*_CONTENT, *(name for name in expected if _CARRIED.fullmatch(name)))
        content = {name: (path / name).read_bytes() for name in names}
    except FileNotFoundError as error:
        missing = Path(error.filename).relative_to(path)
        raise BundleError(f"{path} is not a whole bundle: {missing} is missing") from error
    for name in names:
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
        (folder / name).parent.mkdir(exist_ok=True)
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
