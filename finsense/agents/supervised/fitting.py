"""How every network is fitted: AdamW, early stopping on the validation loss, resumable to the bit."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from finsense.agents.network import weights_finite
from finsense.agents.progress import FitFigures, Progress, TrainingInterrupted
from finsense.agents.supervised.dataset import Dataset, Windows, supervised
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.fitting_checkpoint import Standing, restore, save
from finsense.agents.supervised.network import FittedNetwork, WindowNetwork, run_network, start_from
from finsense.agents.watch import TrainingError
from finsense.config import Experiment
from finsense.config.labels import ForwardReturn
from finsense.config.supervised import NetworkModel
from finsense.state.scaler import Scaler

log = structlog.get_logger()

_CLASSES = 3
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class Sizes:
    """What a body is given and must give: windows (N, history, columns) float32 in, scores (N, outputs) out."""

    columns: int
    history: int
    outputs: int


# A network's body of its sizes and settings.
MakeBody = Callable[[Sizes, NetworkModel], nn.Module]


@dataclass(frozen=True)
class Examples:
    """Examples as torch takes them; windows stay where they lie.

    Attributes:
        windows: n windows.
        target: (n,) int64 classes, or float32 forward returns in standard deviations from their mean.
        weight: (n,) float32, mean about 1.
    """

    windows: Windows
    target: Tensor
    weight: Tensor

    def batch(self, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Tensor, Tensor, Tensor]:
        """Windows (k, T, C), targets and weights of some examples, copied."""
        rows = torch.from_numpy(index)
        return torch.from_numpy(self.windows.gather(index)), self.target[rows], self.weight[rows]


def fit_network(
    make_body: MakeBody,
    experiment: Experiment,
    train: Dataset,
    validation: Dataset,
    scaler: Scaler,
    desk: FittingDesk,
) -> FittedNetwork:
    """Fit a network and give it the weights that had the lowest loss on the validation span.

    What an epoch draws hangs on the seed and the epoch's number alone, and a checkpoint is written after each, so a run
    that was killed and resumed ends with the same weights, bit for bit.

    Args:
        make_body: the network.
        experiment: with the network's settings.
        train: training examples.
        validation: validation examples.
        scaler: of whole states, fitted on the training span.
        desk: where it writes and whom it tells.

    Raises:
        TrainingError: a loss or a gradient is not finite.
        TrainingInterrupted: it was asked to stop; the last whole epoch was saved.
        WarmStartError: the earlier network has another shape.
        CheckpointError: there is nothing to resume, or it is damaged.
    """
    with torch.random.fork_rng(devices=[]):
        fitting = Fitting(make_body, experiment, train, validation, scaler, desk)
        fitting.run()
    return fitting.fitted()


class Fitting:
    """One fitting under way; arguments as in `fit_network`."""

    def __init__(
        self,
        make_body: MakeBody,
        experiment: Experiment,
        train: Dataset,
        validation: Dataset,
        scaler: Scaler,
        desk: FittingDesk,
    ) -> None:
        settings = supervised(experiment)
        assert isinstance(settings, NetworkModel)
        self.settings, self.desk = settings, desk
        self.returns = isinstance(settings.label, ForwardReturn)
        shift, unit = (float(train.forward.mean()), float(train.forward.std())) if self.returns else (0.0, 1.0)
        windows = train.windows
        sizes = Sizes(len(desk.columns), windows.history, 1 if self.returns else _CLASSES)
        self._seed = experiment.seed
        torch.manual_seed(self._seed)
        self.network = WindowNetwork(make_body(sizes, settings), scaler, desk.columns, shift, unit)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.train, self.validation = self._examples(train, shift, unit), self._examples(validation, shift, unit)
        self.standing = self._first_standing()
        self._started_s = self._told_s = time.monotonic()
        self._rows_before = self.standing.rows
        self._figures: FitFigures | None = None

    def run(self) -> None:
        """Epoch after epoch, to the last one or until the validation loss has long stopped falling."""
        standing, settings = self.standing, self.settings
        while standing.epoch < settings.epochs and standing.waited < settings.patience:
            rate = self._rate(standing.epoch + 1)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            train_loss, norm = self.epoch()
            loss, accuracy = self.judge()
            standing.judged(loss, self.network.body)
            figures = {
                "train/loss": train_loss,
                "train/gradient_norm": norm,
                "train/learning_rate": rate,
                "val/loss": loss,
                "val/accuracy": accuracy,
            }
            for name, value in figures.items():
                self.desk.writer.add_scalar(name, value, standing.epoch)
            save(self.desk.checkpoints, self.network.body, self.optimiser, standing)
            self._tell(FitFigures(standing.epoch, settings.epochs, train_loss, loss, accuracy, standing.best_loss))
            log.info("epoch", number=standing.epoch, loss=round(loss, 5), best=standing.best_epoch == standing.epoch)
        self.network.body.load_state_dict(standing.best_weights)

    def epoch(self) -> tuple[float, float]:
        """One pass over the training rows in an order of its own; the mean loss and the mean norm of the gradient."""
        standing, size, rows = self.standing, self.settings.batch_size, len(self.train.windows)
        number = standing.epoch + 1
        sequence = np.random.SeedSequence([self._seed, number])
        torch.manual_seed(int(sequence.generate_state(1)[0]))
        order = np.random.default_rng(sequence).permutation(rows)
        self.network.train()
        losses = norms = 0.0
        for batch, first in enumerate(range(0, rows, size), 1):
            if self.desk.asked_to_stop.is_set():
                raise TrainingInterrupted(
                    f"interrupted in epoch {number}; the run can be resumed, from the end of epoch {standing.epoch}"
                )
            index = order[first : first + size]
            loss, norm = self._step(index)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self._diverged(f"batch {batch} of epoch {number}", loss, norm)
            losses, norms = losses + loss * len(index), norms + norm
            self._tell_now_and_then(first + len(index))
        if not weights_finite(self.network):
            raise self._diverged(f"epoch {number}", losses / rows, norms / batch)
        standing.epoch, standing.rows = number, standing.rows + rows
        return losses / rows, norms / batch

    def judge(self) -> tuple[float, float]:
        """The weighted loss on the validation examples, and the share of them whose direction it names.

        Of forward returns that is the sign, among those that are not 0.
        """
        scores = torch.from_numpy(run_network(self.network, self.validation.windows))
        scores = (scores - self.network.shift) / self.network.unit
        weight = self.validation.weight
        loss = float((self._losses(scores, self.validation.target) * weight).sum() / weight.sum())
        if not self.returns:
            return loss, float((scores.argmax(dim=1) == self.validation.target).double().mean())
        true = self.validation.target * self.network.unit + self.network.shift
        told = scores[:, 0] * self.network.unit + self.network.shift
        return loss, float((torch.sign(told) == torch.sign(true))[true != 0].double().mean())

    def fitted(self) -> FittedNetwork:
        """The network with its best weights."""
        standing, windows = self.standing, self.train.windows
        return FittedNetwork(
            self.network.eval(),
            windows.history,
            windows.columns,
            standing.rows,
            standing.best_rows,
            standing.best_epoch,
        )

    def _first_standing(self) -> Standing:
        """Where the fitting begins: afresh, from an earlier network, or where the last whole epoch left it."""
        body = self.network.body
        if self.desk.resume:
            return restore(self.desk.checkpoints, body, self.optimiser)
        standing = Standing.of(body)
        if self.desk.warm_start is not None:
            start_from(self.network, self.desk.warm_start)
            # Epochs that only make it worse shall not replace it.
            standing.judged(self.judge()[0], body)
        # So that a run that is stopped in its first epoch can be resumed too.
        save(self.desk.checkpoints, body, self.optimiser, standing)
        return standing

    def _examples(self, found: Dataset, shift: float, unit: float) -> Examples:
        target = torch.from_numpy(found.target)
        if self.returns:
            target = torch.from_numpy(((found.forward - shift) / unit).astype(np.float32))
        return Examples(found.windows, target, torch.from_numpy(found.weight.astype(np.float32)))

    def _step(self, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, float]:
        """One gradient step; the loss before it and the norm of the gradient before it was cut."""
        windows, target, weight = self.train.batch(index)
        loss = (self._losses(self.network.standardised(windows), target) * weight).mean()
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.max_grad_norm)
        self.optimiser.step()
        return float(loss.detach()), float(norm)

    def _losses(self, scores: Tensor, target: Tensor) -> Tensor:
        """Loss of each row: cross-entropy, or Huber's of a forward return in standard deviations."""
        if self.returns:
            return nn.functional.huber_loss(scores[:, 0], target, reduction="none")
        return nn.functional.cross_entropy(scores, target, reduction="none")

    def _rate(self, epoch: int) -> float:
        """The learning rate of an epoch, the first is 1."""
        first, last = self.settings.learning_rate, self.settings.final_learning_rate
        if last is None or self.settings.epochs == 1:
            return first
        return first + (last - first) * (epoch - 1) / (self.settings.epochs - 1)

    def _diverged(self, where: str, loss: float, norm: float) -> TrainingError:
        return TrainingError(
            f"the fitting is no longer finite after {where} (loss {loss:g}, norm of the gradient {norm:g}); the "
            f"checkpoint of epoch {self.standing.epoch} was kept in {self.desk.checkpoints}. Lower "
            "agent.learning_rate, and look at train/ in TensorBoard"
        )

    def _tell_now_and_then(self, done: int) -> None:
        if time.monotonic() - self._told_s >= _REPORT_EVERY_S:
            self._tell(None, done)

    def _tell(self, figures: FitFigures | None, done: int = 0) -> None:
        """Report how far it is, `done` rows into an epoch that is under way."""
        if self.desk.report is None:
            return
        self._told_s = time.monotonic()
        rows, total = self.standing.rows + done, self.settings.epochs * len(self.train.windows)
        pace = (rows - self._rows_before) / max(self._told_s - self._started_s, 1e-9)
        self._figures = figures or self._figures
        self.desk.report(Progress(rows, total, pace, (total - rows) / max(pace, 1e-9), fit=self._figures))
