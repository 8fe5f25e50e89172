"""What stops a training."""


class NotFinite(ValueError):
    """A weight, a loss or an output of the network is NaN or infinite; the weights are those of before the update."""
