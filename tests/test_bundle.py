"""A bundle is whole, verified, and refused after any change."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle, market, random_graph, setting

from finsense.model.bundle import BundleError, copy_bundle, load_bundle
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError

_FILES = ("policy.onnx", "bundle.json", "golden.npz", "config.yaml", "model_card.md", "SHA256SUMS")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "policy", setting()).path


def test_a_bundle_holds_what_a_live_box_needs(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == sorted(_FILES)
    assert loaded.manifest.state.hash() == loaded.manifest.state_hash
    assert loaded.manifest.actions == ("buy", "hold", "sell")
    assert len(loaded.golden.market_states) > 0
    assert len(loaded.identity) == 64


@pytest.mark.parametrize("name", _FILES)
def test_one_changed_byte_is_refused_and_named(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match="SHA-256" if name != "SHA256SUMS" else "changed after the export"):
        load_bundle(copy)


@pytest.mark.parametrize("name", _FILES)
def test_a_missing_file_is_refused_and_named(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_bundle(copy)


def test_no_bundle_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found nothing"):
        load_bundle(tmp_path / "absent")


def _rewrite(copy: Path, name: str, content: bytes) -> None:
    """Change a file and make the sums agree, as somebody would who means it."""
    import hashlib

    (copy / name).write_bytes(content)
    names = [line.split("  ")[1] for line in (copy / "SHA256SUMS").read_text().splitlines()]
    sums = "".join(f"{hashlib.sha256((copy / one).read_bytes()).hexdigest()}  {one}\n" for one in names)
    (copy / "SHA256SUMS").write_text(sums)


def test_another_state_spec_is_refused(bundle: Path, tmp_path: Path) -> None:
    """A spec whose columns or hash are not those of this version's kernels."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["columns"][0] = "price_change_of_another_version"
    _rewrite(copy, "bundle.json", json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="trained on another state"):
        load_bundle(copy)


def test_kernels_that_give_other_states_are_refused(bundle: Path, tmp_path: Path) -> None:
    """One bit of one golden state."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    golden = load_bundle(bundle).golden
    golden.market_states.view(np.uint32)[3, 7] ^= 1
    _rewrite(copy, "golden.npz", golden.to_bytes())
    with pytest.raises(BundleError, match=r"row 3, value 7"):
        load_bundle(copy)


def test_another_policy_than_the_golden_one_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = load_bundle(bundle).manifest
    _rewrite(copy, "policy.onnx", random_graph(manifest.state_width, 3, seed=99))
    with pytest.raises(BundleError, match="golden vector"):
        load_bundle(copy)


def test_a_graph_of_another_shape_is_refused() -> None:
    with pytest.raises(OnnxPolicyError, match="expected a policy with inputs"):
        OnnxPolicy(random_graph(10, 3), 11, 3)
    with pytest.raises(OnnxPolicyError, match="cannot load"):
        OnnxPolicy(b"not a graph", 10, 3)


@contextmanager
def _full_disk(allowed_bytes: int) -> Iterator[None]:
    """Let the kernel refuse every file larger than this, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_bundle_whole(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    old = make_bundle(path, setting(), seed=1).identity
    with _full_disk(2_000), pytest.raises(OSError, match="too large"):
        make_bundle(path, setting(), seed=2)
    assert load_bundle(path).identity == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy"], "something half-written was left behind"


def test_a_new_bundle_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "policy"
    old = make_bundle(path, setting(), seed=1).identity
    new = make_bundle(path, setting(), seed=2).identity
    assert old != new
    assert load_bundle(path).identity == new
    assert copy_bundle(path, tmp_path / "copy").identity == new
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["copy", "policy"]


def test_a_decision_is_legal_or_refused(bundle: Path) -> None:
    """Every mask with at least one legal action gets a legal one; a broken state is refused, never traded."""
    policy = load_bundle(bundle).policy
    random = np.random.default_rng(0)
    width = load_bundle(bundle).manifest.state_width
    for _ in range(200):
        state = random.normal(size=(1, width)).astype(np.float32)
        mask = random.random((1, 3)) < 0.5
        mask[0, 1] = True
        decision = policy.act(state, mask)
        assert mask[0, decision.action]
        assert decision.probabilities[~mask[0]].sum() == 0.0
    with pytest.raises(OnnxPolicyError, match="chose action"):
        policy.act(np.full((1, width), np.nan, np.float32), np.ones((1, 3), np.bool_))


def test_states_of_the_bundle_are_those_of_its_market(bundle: Path) -> None:
    """The golden bars are simulated, so a bundle carries no vendor's data."""
    golden = load_bundle(bundle).golden
    bars = market("SIMGOLDEN", "5m", setting().state.warmup // 75 + 3)
    assert golden.close.tobytes() == bars.close.tobytes()
