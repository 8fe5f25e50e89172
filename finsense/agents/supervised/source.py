"""The source of a supervised model inside its graph: from it another model of its kind can be started."""

import base64
import binascii
from pathlib import Path

import onnx

from finsense.config import Experiment
from finsense.model.bundle import GRAPH, load_bundle

# A named value of the graph's metadata, which no runner reads.
_KEY = "finsense_source"


class WarmStartError(ValueError):
    """A bundle from which this model cannot be started."""


def with_source(graph: bytes, source: bytes) -> bytes:
    """The graph with the source in its metadata: a network's weights (npz), boosted trees (UBJSON)."""
    model = onnx.load_from_string(graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = _KEY, base64.b64encode(source).decode("ascii")
    return bytes(model.SerializeToString())


def source_of(graph: bytes) -> bytes | None:
    """The source that a graph carries; None where it carries none."""
    found = [entry.value for entry in onnx.load_from_string(graph).metadata_props if entry.key == _KEY]
    return base64.b64decode(found[0], validate=True) if found else None


def warm_start(experiment: Experiment, path: Path) -> bytes:
    """The source of an earlier bundle of the same kind on the same state.

    Raises:
        WarmStartError: it is of another kind, sees another state, or carries no source.
        BundleError: it does not verify.
    """
    manifest = load_bundle(path).manifest
    advice = "start from another bundle, or set agent.warm_start to null"
    if manifest.kind != experiment.agent.kind:
        raise WarmStartError(
            f"expected a bundle of kind {experiment.agent.kind} at {path}, found kind {manifest.kind}; {advice}"
        )
    if manifest.state_hash != experiment.state.hash():
        raise WarmStartError(
            f"{path} sees another state than this experiment: expected the hash {experiment.state.hash()} (history "
            f"{experiment.state.history}, {len(experiment.state.columns)} columns), found {manifest.state_hash} "
            f"(history {manifest.state.history}, {len(manifest.columns)} columns); {advice}"
        )
    try:
        source = source_of((path / GRAPH).read_bytes())
    except binascii.Error as error:
        raise WarmStartError(f"the source in {path / GRAPH} cannot be read ({error}); {advice}") from error
    if source is None:
        raise WarmStartError(f"{path / GRAPH} carries no source; {advice}")
    return source
