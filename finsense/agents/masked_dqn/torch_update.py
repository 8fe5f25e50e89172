"""The same update in torch, for networks that the kernels do not take; the kernels are tested against it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor
from torch.nn import functional

from finsense.agents.masked_dqn.replay import ReplaySamples


class Loss(NamedTuple):
    """Of a minibatch: the loss, the Q values of what was done and their absolute errors, (n,) float64 each."""

    loss: Tensor
    q_values: NDArray[np.float64]
    errors: NDArray[np.float64]


def masked_loss(online: QNetwork, target: QNetwork, samples: ReplaySamples, double: bool) -> Loss:
    """The loss that `update.py` describes.

    Args:
        online: the network that is trained.
        target: the network that the targets are taken from.
        samples: the minibatch.
        double: whether the online network chooses the next action.
    """
    with torch.no_grad():
        following = target(samples.next_observations)
        scores = online(samples.next_observations) if double else following
        best = scores.masked_fill(~samples.next_masks, -torch.inf).argmax(dim=1, keepdim=True)
        worth = following.gather(1, best).squeeze(1)
        # Where nothing is legal, or the episode is over, nothing follows: not even a NaN times 0.
        goes_on = (samples.discounts != 0.0) & samples.next_masks.any(dim=1)
        targets = samples.returns + torch.where(goes_on, samples.discounts * worth, 0.0)
    found = online(samples.observations).gather(1, samples.actions[:, None]).squeeze(1)
    single = functional.smooth_l1_loss(found, targets, reduction="none")
    loss = (samples.weights * single).mean()
    errors = (found.detach() - targets).abs()
    return Loss(loss, found.detach().cpu().double().numpy(), errors.cpu().double().numpy())
