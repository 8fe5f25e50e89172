"""From class probabilities to an action: act where the expected move beats the charges, else hold."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.account.rules import AccountRules, TargetActions
from finsense.agents.labels import CLASSES, DOWN, UP
from finsense.agents.network import decided
from finsense.agents.supervised.calibration import (
    CalibrationError,
    Evidence,
    Isotonic,
    StudentReturn,
    class_shares,
    fit_evidence,
    fit_isotonic,
    fit_slope,
    fit_student_return,
    probabilities_of,
)
from finsense.agents.supervised.conformal import check_counts, conformal_limits
from finsense.agents.supervised.dataset import Dataset, supervised
from finsense.agents.supervised.skill import skill
from finsense.config import Experiment
from finsense.config.labels import ForwardReturn
from finsense.config.supervised import SupervisedModel
from finsense.evaluation.baselines import action_codes

# Holding is preferred by a hundredth of a round trip: where nothing is expected and nothing costs, nothing is done.
_HOLD_MARGIN = 0.01
# A class's move scores no more than this, or the last bits of its probability would be seen in those of the actions.
_HIGHEST_SCORE = 4.0
# Score of an action that the rule does not use (a target between flat and the highest): no share of probability.
_UNUSED = -1e4
# A margin of probability counts in thirds, the chance of a class of which nothing is known.
_THIRDS = 3.0
_LEAST_ROWS = 50


@dataclass(frozen=True)
class Rule:
    """The numbers of the decision rule; moves and costs are fractions of the price.

    Attributes:
        moves: (3,) float64, expected forward return of each class; None where a return is forecast.
        slope: expected forward return per forecast return; not used with moves.
        round_trip: charges and slippage of a purchase and its sale.
        unit: the move that counts as one in the scores of the actions.
        limits: probability of down, and of up, from which on its opposite is not traded; None without abstention.
    """

    moves: NDArray[np.float64] | None
    slope: float
    round_trip: float
    unit: float
    limits: tuple[float, float] | None


class Decider(nn.Module):
    """The last part of every supervised model's graph: calibration, expected move, costs, abstention, mask.

    With p the calibrated probabilities the expected move is E = sum of p x moves (or slope x forecast return). It goes
    long where E > round trip, short or out where E < -round trip, and else holds. With abstention a direction needs
    too that the opposite class is improbable (`conformal_limit`). The scores of the actions are the margins of these
    conditions, over `unit`; holding scores a hundredth of a round trip.

    Args:
        calibration: raw outputs (N, K) to probabilities (N, 3).
        rule: the numbers.
        account: whose actions are chosen.
    """

    moves: Tensor
    slope: Tensor
    round_trip: Tensor
    unit: Tensor
    limits: Tensor
    ways: Tensor
    rest: Tensor

    def __init__(self, calibration: nn.Module, rule: Rule, account: AccountRules) -> None:
        super().__init__()
        self.calibration = calibration
        self.abstains = rule.limits is not None
        self.by_class = rule.moves is not None
        long, hold, short = trading_actions(account)
        ways, rest = np.zeros((2, len(account.action_names))), np.full(len(account.action_names), _UNUSED)
        ways[0, long] = ways[1, short] = 1.0
        rest[[long, hold, short]] = 0.0, _HOLD_MARGIN * (rule.round_trip / rule.unit or 1.0), 0.0
        buffers = {
            "moves": np.zeros(len(CLASSES)) if rule.moves is None else rule.moves,
            "slope": rule.slope,
            "round_trip": rule.round_trip,
            "unit": rule.unit,
            "limits": rule.limits or (0.0, 0.0),
            "ways": ways,
            "rest": rest,
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.tensor(np.asarray(values, np.float64)))

    def forward(self, outputs: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decide.

        Args:
            outputs: (N, K) float32, raw scores of the model.
            state: (N, F) float32; where a value of it is not finite, all probabilities are NaN, which no runner takes.
            mask: (N, A) bool.

        Returns:
            action (N,) int64, probabilities (N, A) float32 (exactly 0 where masked) and forecast (N, 3) float32, the
            calibrated probabilities of down, flat and up.
        """
        forecast, move = self.expect(outputs.double())
        # Of long and of short.
        margins = (torch.cat([move, -move], dim=1) - self.round_trip) / self.unit
        if self.abstains:
            # Long needs that down is improbable, short that up is.
            opposite = forecast[:, DOWN : UP + 1 : UP - DOWN]
            margins = torch.minimum(margins, _THIRDS * (self.limits - opposite))
        scores = self.rest + (margins.unsqueeze(2) * self.ways).sum(dim=1)
        action, probabilities = decided(scores.float(), state, mask)
        return action, probabilities, forecast.float() + (state - state).sum(dim=1, keepdim=True)

    def expect(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrated probabilities (N, 3) and expected move (N, 1), fraction, of raw outputs (N, K) float64."""
        forecast = self.calibration(outputs)
        return forecast, (forecast * self.moves).sum(dim=1, keepdim=True) if self.by_class else self.slope * outputs


@dataclass(frozen=True)
class FittedDecider:
    """A decision rule and what is told of it.

    Attributes:
        decider: goes into the graph.
        calibration: for the manifest: how the probabilities were calibrated, and what that did.
        decision: for the manifest: the numbers of the rule.
    """

    decider: Decider
    calibration: dict[str, Any]
    decision: dict[str, Any]


def trading_actions(account: AccountRules) -> tuple[int, int, int]:
    """The actions that go long, hold, and go short or out: buy, hold, sell; or the highest target, hold, the lowest.

    The lowest target is flat (0), or negative where the account may be short.
    """
    long, hold, short = action_codes(account)
    if isinstance(account.actions, TargetActions):
        targets = account.actions.targets
        short = targets.index(min(targets))
    return long, hold, short


def fit_decider(
    outputs: NDArray[np.float32], train: Dataset, validation: Dataset, experiment: Experiment
) -> FittedDecider:
    """Fit calibration and decision rule.

    Nothing is fitted and judged on the same labels: the calibration is fitted on the first half of the validation span
    (less the labels that reach into the second), and measured on the second half, which also gives the conformal
    limits. What is measured is what is exported; nothing is fitted again afterwards. The moves of the classes are means
    over the training labels: those of the validation span would let its own drift into the rule, and so into the
    figures by which the rule is judged there.

    Args:
        outputs: (n, K) float32, what the model gives for the validation examples.
        train: the training examples.
        validation: the validation examples.
        experiment: with a supervised model.

    Raises:
        CalibrationError: a half has too few labels, or only one class.
        ConformalError: there are too few labels for the error rate.
    """
    agent = supervised(experiment)
    check_decidable(validation, experiment)
    fitted_on, measured_on = calibration_halves(validation)
    first, second = validation.take(fitted_on), validation.take(measured_on)
    round_trip = float(np.median(validation.round_trip))
    raw, calibration = _calibrations(outputs[fitted_on], train, first, round_trip, agent)
    before, after = (probabilities_of(module, outputs[measured_on]) for module in (raw, calibration))
    rate = agent.abstain_error_rate
    limits = None if rate is None else conformal_limits(after, second.target, rate)
    moves, slope = _moves(outputs[fitted_on], train, first, agent)
    rule = Rule(moves, slope, round_trip, _unit(round_trip, moves, slope * outputs[fitted_on, 0]), limits)
    decider = Decider(calibration, rule, experiment.account)
    told = {"method": agent.calibration, "fitted": _parameters(calibration), "rows": len(first)}
    majority = int(np.bincount(train.target, minlength=len(CLASSES)).argmax())
    return FittedDecider(
        decider,
        {**told, "measured": skill(before, after, second, majority, agent.label.horizon)},
        {**_rule_told(rule, agent, experiment.account), **_leanings(decider, outputs[measured_on])},
    )


def check_decidable(validation: Dataset, experiment: Experiment) -> None:
    """Refuse, before anything is fitted, a validation span on which no decision rule can be fitted afterwards.

    Raises:
        CalibrationError, ConformalError: as in `fit_decider`.
    """
    rate = supervised(experiment).abstain_error_rate
    _, second = calibration_halves(validation)
    if rate is not None:
        check_counts(validation.target[second], rate)


def calibration_halves(validation: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the examples in the first half of the span whose labels end in it, and of those in the second half.

    Raises:
        CalibrationError: a half has too few labels, or the first one only one class.
    """
    boundary_ns = np.sort(validation.start_ns)[len(validation) // 2]
    first = np.flatnonzero(validation.end_ns < boundary_ns)
    second = np.flatnonzero(validation.start_ns >= boundary_ns)
    if min(len(first), len(second)) < _LEAST_ROWS:
        raise CalibrationError(
            f"expected at least {_LEAST_ROWS} labels in each half of the validation span, to fit the calibration on "
            f"the first and measure it on the second, found {len(first)} (without those that reach into the second "
            f"half) and {len(second)}; give a longer split.validation or a shorter agent.label.horizon"
        )
    found = np.unique(validation.target[first])
    if len(found) < 2:
        raise CalibrationError(
            f"expected labels of at least two classes in the first half of the validation span, found {len(first)} of "
            f"class {CLASSES[found[0]]} alone: no probability can be calibrated on them; change agent.label, or give "
            "a longer split.validation"
        )
    return first, second


def class_moves(train: Dataset) -> NDArray[np.float64]:
    """(3,) mean forward return of each class, fraction; 0 of a class that does not come up."""
    counts = np.bincount(train.target, minlength=len(CLASSES))
    moves: NDArray[np.float64] = np.bincount(train.target, train.forward, len(CLASSES)) / np.maximum(counts, 1)
    return moves


def _calibrations(
    outputs: NDArray[np.float32], train: Dataset, first: Dataset, round_trip: float, agent: SupervisedModel
) -> tuple[nn.Module, nn.Module]:
    """Without and with calibration."""
    if isinstance(agent.label, ForwardReturn):
        student = StudentReturn(1.0, float(train.forward.std()) / math.sqrt(2.0), round_trip)
        if agent.calibration == "isotonic":
            return student, fit_isotonic(student, outputs, first.target)
        return student, fit_student_return(outputs, first.forward, first.target, round_trip)
    shares, learned = class_shares(train.target), class_shares(train.target, train.weight)
    plain = Evidence(learned, learned)
    if agent.calibration == "isotonic":
        return plain, fit_isotonic(Evidence(shares, learned), outputs, first.target)
    return plain, fit_evidence(outputs, first.target, shares, learned)


def _moves(
    outputs: NDArray[np.float32], train: Dataset, first: Dataset, agent: SupervisedModel
) -> tuple[NDArray[np.float64] | None, float]:
    """The expected forward return of each class, or None and that per forecast return."""
    if isinstance(agent.label, ForwardReturn):
        return None, fit_slope(outputs, first.forward)
    return class_moves(train), 0.0


def _unit(round_trip: float, moves: NDArray[np.float64] | None, expected: NDArray[np.floating]) -> float:
    """The move that scores 1: a round trip, unless moves are many times as large (there may be no charges at all)."""
    usual = float(expected.std()) if moves is None else float(np.abs(moves).max()) / _HIGHEST_SCORE
    return max(round_trip, usual) or 1.0


def _parameters(calibration: nn.Module) -> dict[str, float | int | None]:
    """What was fitted."""
    if isinstance(calibration, Evidence):
        sharpness = float(calibration.sharpness)
        # The inverse, for a model that tells nothing has no finite temperature.
        return {"temperature": 1.0 / sharpness if sharpness > 0 else None}
    if isinstance(calibration, StudentReturn):
        return {"slope": float(calibration.slope), "scale": float(calibration.scale)}
    assert isinstance(calibration, Isotonic)
    return {"steps": int((calibration.slope > 0).sum())}


def _rule_told(rule: Rule, agent: SupervisedModel, account: AccountRules) -> dict[str, Any]:
    long, hold, short = (account.action_names[action] for action in trading_actions(account))
    told: dict[str, Any] = {"slope": rule.slope}
    if rule.moves is not None:
        told = {"moves": dict(zip(CLASSES, rule.moves.tolist(), strict=True))}
    return {
        "long": long,
        "hold": hold,
        "short": short,
        **told,
        "round_trip": rule.round_trip,
        "unit": rule.unit,
        "abstain_error_rate": agent.abstain_error_rate,
        "limits": None if rule.limits is None else {"down": rule.limits[0], "up": rule.limits[1]},
    }


def _leanings(decider: Decider, outputs: NDArray[np.float32]) -> dict[str, float]:
    """How often the rule wants to go long and short, whatever the account may do, and how large its moves are."""
    raw = torch.from_numpy(outputs)
    with torch.inference_mode():
        action, _, _ = decider(raw, torch.zeros(len(raw), 1), torch.ones(len(raw), len(decider.rest), dtype=torch.bool))
        move = decider.expect(raw.double())[1].abs()
    return {
        "share_long": float(decider.ways[0, action].mean()),
        "share_short": float(decider.ways[1, action].mean()),
        "mean_move": float(move.mean()),
        "largest_move": float(move.max()),
    }
