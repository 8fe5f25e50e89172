"""Trains a run again from what it left, and says whether the same weights come out, and if not, what differs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finsense.agents.progress import Progress
from finsense.agents.provenance import git_commit, versions
from finsense.agents.recorded_training import train_recorded
from finsense.agents.run_folder import CONFIG, MANIFEST, RunError, differences
from finsense.agents.run_record import FINISHED, read_json, read_result
from finsense.config import load_experiment


@dataclass(frozen=True)
class Reproduction:
    """What became of a run that was trained again.

    Attributes:
        expected: SHA-256 (hex) of the run's last weights.
        found: of the new ones; None where it was not trained, because the configuration or the data differ.
        differs: what is not as it was when the run was trained; it need not be the reason.
    """

    expected: str
    found: str | None
    differs: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the weights are the same, bit for bit."""
        return self.expected == self.found


def reproduce(run_dir: Path, scratch: Path, *, report: Callable[[Progress], None] | None = None) -> Reproduction:
    """Train the run's experiment in another folder and compare the weights.

    Args:
        run_dir: of a finished run.
        scratch: where to train; it must hold no run.
        report: called after each rollout.

    Raises:
        RunError: the folder holds no finished run.
        ConfigError: this version does not read its configuration.
        Others as `training.run_training`.
    """
    manifest, result = read_json(run_dir / MANIFEST), read_result(run_dir)
    if result.get("state") != FINISHED:
        raise RunError(
            f"{run_dir} has not recorded the hash of its last weights, because it has not finished; resume it first"
        )
    experiment = load_experiment(run_dir / CONFIG)
    differs = [f"version of {line}" for line in differences(manifest["versions"], versions())]
    now = git_commit()
    if manifest["git_commit"] != now:
        differs.append(f"git commit: {manifest['git_commit'] or 'not a checkout'} -> {now or 'not a checkout'}")
    decisive = []
    if manifest["config_hash"] != experiment.hash():
        decisive.append(f"configuration: {CONFIG} is not what was trained (hash {experiment.hash()})")
    data = {symbol: bars.data_hash for symbol, bars in experiment.data.load().items()}
    decisive += [f"data of {line}" for line in differences(manifest["data_hash"], data)]
    if decisive:
        return Reproduction(result["weights_hash"], None, (*decisive, *differs))
    trained = train_recorded(experiment, scratch, report=report)
    return Reproduction(result["weights_hash"], trained.weights_hash, tuple(differs))
