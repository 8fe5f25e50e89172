"""Runs an exported policy: one thread, fixed graph optimisation, buffers bound once."""

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from finsense.model.policy import Decision, Policy

FORECAST = "forecast"
_FORECAST_SHAPE = ("tensor(float)", [3])


class OnnxPolicyError(ValueError):
    """A graph that is not a policy, or an answer that no policy may give."""


def _session(graph: bytes) -> ort.InferenceSession:
    """The one way in which a graph is run, so that it gives the same bits wherever it decides."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own that share no public base
        raise OnnxPolicyError(f"onnxruntime cannot load the graph: {error}") from error


def _shared(array: NDArray[Any]) -> ort.OrtValue:
    """A value on the array's own memory, which must outlive it."""
    return ort.OrtValue.ortvalue_from_numpy(array)


class OnnxPolicy(Policy):
    """A policy as an ONNX graph: inputs state (N, F) float32 and mask (N, A) bool, outputs action and probabilities.

    The graph of a supervised model has a third output, `forecast` (N, 3) float32: the calibrated probabilities that the
    price goes down, stays, goes up. Deciding does not read it.

    Args:
        graph: the bytes of the graph.
        state_width: F.
        action_count: A.

    Raises:
        OnnxPolicyError: the graph cannot be loaded, or its inputs and outputs are not those of a policy.
    """

    def __init__(self, graph: bytes, state_width: int, action_count: int) -> None:
        self._session = _session(graph)
        self._check(state_width, action_count)
        self._state = np.zeros((1, state_width), np.float32)
        self._mask = np.zeros((1, action_count), np.bool_)
        self._action = np.zeros(1, np.int64)
        self._probabilities = np.zeros((1, action_count), np.float32)
        # Bound once: binding costs more than running a small network.
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input("state", _shared(self._state))
        self._binding.bind_ortvalue_input("mask", _shared(self._mask))
        self._binding.bind_ortvalue_output("action", _shared(self._action))
        self._binding.bind_ortvalue_output("probabilities", _shared(self._probabilities))

    def _check(self, state_width: int, action_count: int) -> None:
        found = {value.name: (value.type, value.shape[1:]) for value in self._session.get_inputs()}
        given = {value.name: (value.type, value.shape[1:]) for value in self._session.get_outputs()}
        wanted_inputs = {"state": ("tensor(float)", [state_width]), "mask": ("tensor(bool)", [action_count])}
        wanted_outputs = {"action": ("tensor(int64)", []), "probabilities": ("tensor(float)", [action_count])}
        forecast = given.pop(FORECAST, None)
        self._forecasts = forecast is not None
        if found != wanted_inputs or given != wanted_outputs or forecast not in (None, _FORECAST_SHAPE):
            raise OnnxPolicyError(
                f"expected a policy with inputs {wanted_inputs} and outputs {wanted_outputs}, found {found} and {given}"
            )

    def forecast(self, states: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The probabilities of down, flat and up, (N, 3) float32, for states (N, F) float32; None: it gives none.

        Each row is run alone, as decisions are.
        """
        if not self._forecasts:
            return None
        mask = np.ones_like(self._mask)
        rows = [
            self._session.run([FORECAST], {"state": states[row : row + 1], "mask": mask})[0]
            for row in range(len(states))
        ]
        return np.concatenate(rows) if rows else np.empty((0, 3), np.float32)

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Decide on one state, (1, F) float32, under one mask, (1, A) bool.

        Raises:
            OnnxPolicyError: the graph cannot be run, or answered with a masked action or with probabilities that are
                not finite.
        """
        self._state[:] = state
        self._mask[:] = mask
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # onnxruntime raises classes of its own that share no public base
            raise OnnxPolicyError(f"onnxruntime cannot run the graph: {error}") from error
        action, probabilities = int(self._action[0]), self._probabilities[0].copy()
        if not mask[0, action] or not np.isfinite(probabilities[action]):
            raise OnnxPolicyError(
                f"the policy chose action {action} with probability {probabilities[action]}; "
                f"legal actions: {np.flatnonzero(mask[0]).tolist()}"
            )
        return Decision(action, probabilities)
