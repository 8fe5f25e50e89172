"""A policy on disk, one or several in one: written whole or not at all, and refused where it does not verify."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from finsense.model.ensemble import EnsemblePolicy, Seat, tell_dropped
from finsense.model.golden import Golden, GoldenError, verify_golden
from finsense.model.manifest import EnsembleSpec, Manifest, Member
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError
from finsense.state.extension import CARRIED_FOLDER, CarriedFiles, ExtensionError

GRAPH, MANIFEST, GOLDEN, CONFIG, CARD, SUMS = (
    "policy.onnx",
    "bundle.json",
    "golden.npz",
    "config.yaml",
    "model_card.md",
    "SHA256SUMS",
)
# An ensemble has the bundles of its members in this folder, and no graph of its own.
MEMBERS = "members"
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
    policy: OnnxPolicy | EnsemblePolicy
    golden: Golden
    config: str


def write_bundle(path: Path, graph: bytes, manifest: Manifest, golden: Golden, config: str, card: str) -> Bundle:
    """Write a bundle, verify it, and only then put it in the place of an older one.

    The files of the user's own indicators go into it as they were run, whatever became of them since.

    Raises:
        BundleError: it does not verify; what stood at `path` before is untouched.
        OSError: the disk is full or not writable; what stood at `path` before is untouched.
    """
    content = {GRAPH: graph, **_described(manifest, golden, config, card)}
    return _place(path, {**content, SUMS: _sums(content)})


def write_ensemble(
    path: Path, members: Mapping[str, Path], manifest: Manifest, golden: Golden, config: str, card: str
) -> Bundle:
    """Write an ensemble with copies of its members' bundles; arguments and errors as in `write_bundle`.

    Its sums cover its own files and the members' sums, which cover theirs.

    Args:
        path: of the ensemble.
        members: name -> bundle of each, as the manifest's spec names them.
        manifest: with the spec of the ensemble.
        golden: of the ensemble.
        config: what it was built from, YAML.
        card: the model card.
    """
    content = _described(manifest, golden, config, card)
    copies = {name: bundle_files(source) for name, source in members.items()}
    sums = _sums({**content, **{f"{MEMBERS}/{name}/{SUMS}": copy[SUMS] for name, copy in copies.items()}})
    inner = {f"{MEMBERS}/{name}/{file}": data for name, copy in copies.items() for file, data in copy.items()}
    return _place(path, {**content, **inner, SUMS: sums})


def copy_bundle(source: Path, path: Path) -> Bundle:
    """Put a verified copy of a bundle at `path`, in the place of an older one; errors as in `write_bundle`."""
    return _place(path, bundle_files(source))


def bundle_files(path: Path) -> dict[str, bytes]:
    """Name -> content of every file of a bundle, those of an ensemble's members included.

    Raises:
        BundleError: it does not verify, or one of its members does not.
    """
    manifest = load_bundle(path).manifest
    if manifest.ensemble is None:
        names = [*_CONTENT, *manifest.state.carried_files(), SUMS]
        return {name: (path / name).read_bytes() for name in names}
    names = [MANIFEST, GOLDEN, CONFIG, CARD, *manifest.state.carried_files(), SUMS]
    files = {name: (path / name).read_bytes() for name in names}
    for member in manifest.ensemble.members:
        folder = f"{MEMBERS}/{member.name}"
        files |= {f"{folder}/{name}": data for name, data in bundle_files(path / folder).items()}
    return files


def _described(manifest: Manifest, golden: Golden, config: str, card: str) -> dict[str, bytes]:
    """The files that every bundle has beside what decides."""
    placed = manifest.model_copy(update={"state": manifest.state.as_carried()})
    return {
        MANIFEST: placed.model_dump_json(indent=2).encode(),
        GOLDEN: golden.to_bytes(),
        CONFIG: config.encode(),
        CARD: card.encode(),
        **manifest.state.carried_files(),
    }


def _sums(content: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items()).encode()


def _place(path: Path, content: Mapping[str, bytes]) -> Bundle:
    """Write the files beside `path`, verify them there, and swap the folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        _write_folder(fresh, content)
        dropped = _dropped(load_bundle(fresh).policy)
        if dropped:
            raise BundleError(f"{path} was not written: {'; '.join(dropped.values())}")
        _replace(path, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return load_bundle(path)


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and verify it: every file's hash, the state's columns, the golden vectors.

    A bundle that carries the user's own indicators brings Python code; it is run once its hash has been checked.
    Of an ensemble the members are loaded too; one that does not verify is dropped, which is said in the log.

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
        policy = _policy(path, manifest, content)
        golden = Golden.from_bytes(content[GOLDEN])
        # An ensemble without one of its members decides otherwise; those that are left have been verified.
        if not _dropped(policy):
            verify_golden(golden, policy.begin(), manifest.interval, manifest.state)
    except (OnnxPolicyError, GoldenError) as error:
        raise BundleError(f"{path} does not verify: {error}") from error
    return Bundle(path, identity, manifest, policy, golden, content[CONFIG].decode())


def _policy(path: Path, manifest: Manifest, content: Mapping[str, bytes]) -> OnnxPolicy | EnsemblePolicy:
    if (GRAPH in content) != (manifest.ensemble is None):
        raise BundleError(f"{path} must have either a {GRAPH} or an ensemble in its {MANIFEST}; build it again")
    if manifest.ensemble is None:
        return OnnxPolicy(content[GRAPH], manifest.state_width, len(manifest.actions))
    return _ensemble_policy(path, manifest, manifest.ensemble)


def _ensemble_policy(path: Path, manifest: Manifest, spec: EnsembleSpec) -> EnsemblePolicy:
    """Load the members; who does not load has a seat without a policy."""
    seats = [_seat(path / MEMBERS / member.name, manifest, member) for member in spec.members]
    policy = EnsemblePolicy(seats, spec, manifest.account)
    for seat in seats:
        if seat.fault:
            tell_dropped(seat, policy)
    return policy


def _seat(folder: Path, manifest: Manifest, member: Member) -> Seat:
    try:
        bundle = load_bundle(folder)
    except (BundleError, ExtensionError, OSError) as error:
        return Seat(member.name, None, 0, str(error))
    if bundle.identity != member.identity or not isinstance(bundle.policy, OnnxPolicy):
        fault = f"{folder} holds another bundle than the one that the ensemble was built of: expected identity "
        return Seat(member.name, None, 0, f"{fault}{member.identity}, found {bundle.identity}")
    return Seat(member.name, bundle.policy, manifest.state.width - bundle.manifest.state.width)


def _dropped(policy: OnnxPolicy | EnsemblePolicy) -> dict[str, str]:
    return policy.dropped if isinstance(policy, EnsemblePolicy) else {}


def _read_verified(path: Path) -> tuple[dict[str, bytes], str]:
    try:
        sums = (path / SUMS).read_bytes()
        expected: dict[str, str] = {}
        for line in sums.decode(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            expected[name] = digest
        whole = not any(name.startswith(f"{MEMBERS}/") for name in expected)
        names = [name for name in _CONTENT if whole or name != GRAPH]
        names += [name for name in expected if _CARRIED.fullmatch(name)]
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
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
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
