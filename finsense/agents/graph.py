"""From a trained policy to an ONNX graph, and the proof that the graph decides as the policy does."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.model.golden import PROBABILITY_TOLERANCE
from finsense.model.onnx_policy import OnnxPolicy

# Written by torch.export, the exporter that torch maintains. The opset is pinned: a newer torch must not change graphs.
OPSET = 20
# Two actions this close in probability are a tie: float32 arithmetic in another order may name either one.
TIE = 1e-6
# States (N, F) float32 and masks (N, A) bool to actions (N,) int64 and probabilities (N, A) float32.
Decide = Callable[[NDArray[np.float32], NDArray[np.bool_]], tuple[NDArray[np.int64], NDArray[np.float32]]]


class ExportError(ValueError):
    """A graph that does not decide as its source does."""


@dataclass(frozen=True)
class ExportProof:
    """What the export was verified on.

    Attributes:
        states: how many states and masks.
        ties: of these, so many had two best actions within TIE.
        probability_difference: largest difference of a probability.
    """

    states: int
    ties: int
    probability_difference: float


def export_graph(
    actor: nn.Module, state_width: int, action_count: int, outputs: tuple[str, ...] = ("action", "probabilities")
) -> bytes:
    """A policy as an ONNX graph: scaler, layers and mask inside, any number of rows.

    Args:
        actor: state (N, F) float32 and mask (N, A) bool in.
        state_width: F.
        action_count: A.
        outputs: names of what it gives; a supervised model adds `forecast`.
    """
    rows = torch.export.Dim("N")
    example = {
        "state": torch.zeros(2, state_width),
        "mask": torch.ones(2, action_count, dtype=torch.bool),
    }
    return export_module(actor, example, outputs, {name: {0: rows} for name in example})


def export_module(
    module: nn.Module, example: dict[str, Tensor], outputs: tuple[str, ...], dynamic: dict[str, dict[int, Any]]
) -> bytes:
    """Any module as an ONNX graph, as torch's exporter writes it, without its remarks.

    Args:
        module: what is exported, on the CPU.
        example: input name -> an example, in the order of `forward`'s arguments.
        outputs: names of the outputs in their order.
        dynamic: input name -> axis -> `torch.export.Dim` of the axes that may have any length.
    """
    # It warns of its own deprecations and of torchvision, which has no part in this.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                input_names=list(example),
                output_names=list(outputs),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple(dynamic[name] for name in example),
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    assert program is not None
    return without_remarks(program.model_proto)


def torch_decider(actor: nn.Module) -> Decide:
    """How a torch module decides: states and masks in, actions and probabilities out, as arrays."""

    def decide(states: NDArray[np.float32], masks: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        with torch.inference_mode():
            action, probabilities = actor(torch.from_numpy(states), torch.from_numpy(masks))[:2]
        return action.numpy(), probabilities.numpy()

    return decide


def verify_graph(
    graph: bytes,
    decide: Decide,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
    tolerance: float = PROBABILITY_TOLERANCE,
) -> ExportProof:
    """Compare the graph with its source on every state, one by one and all at once.

    Args:
        graph: the ONNX graph.
        decide: the source's own answer.
        states: (N, F) float32.
        masks: (N, A) bool.
        tolerance: largest difference of a probability that passes.

    Raises:
        ExportError: a probability differs by more, an action differs, or a masked action is chosen.
    """
    expected_action, expected = decide(states, masks)
    options = ort.SessionOptions()
    # Several threads add the trees of a model in another order, which moves the last bits.
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    runner = OnnxPolicy(graph, states.shape[1], masks.shape[1])
    decisions = [runner.act(states[row : row + 1], masks[row : row + 1]) for row in range(len(states))]
    together = session.run(["action", "probabilities"], {"state": states, "mask": masks})
    alone = np.array([one.action for one in decisions]), np.array([one.probabilities for one in decisions])
    best_two = np.sort(expected, axis=1)[:, -2:]
    tied = best_two[:, 1] - best_two[:, 0] <= TIE
    largest = 0.0
    for how, (action, probabilities) in (("one by one", alone), ("all at once", together)):
        difference = np.abs(probabilities - expected).max(axis=1)
        _refuse(difference > tolerance, how, f"differ by up to {difference.max():.2e} in probability")
        _refuse((action != expected_action) & ~tied, how, "are decided otherwise")
        _refuse(~masks[np.arange(len(masks)), action], how, "are answered with a masked action")
        _refuse((probabilities[~masks] != 0).any(keepdims=True), how, "give a masked action some probability")
        largest = max(largest, float(difference.max()))
    return ExportProof(len(states), int(tied.sum()), largest)


def _refuse(at_fault: NDArray[np.bool_], how: str, what: str) -> None:
    rows = np.flatnonzero(at_fault)
    if len(rows):
        raise ExportError(
            f"the exported graph is not its source: run {how}, {len(rows)} states {what} (rows {rows[:3].tolist()}); "
            "the bundle was not written"
        )


def without_remarks(model: onnx.ModelProto) -> bytes:
    """The graph without the exporter's remarks, which name source files and stacks of this machine."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
