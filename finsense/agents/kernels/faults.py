"""What stops a training, and what the kernels leave to torch."""

# How a row of a batch was decided on: well, or why it could not be.
ALL_FINE, NOTHING_LEGAL, NOT_FINITE = range(3)


class NotFinite(ValueError):
    """A weight, a loss or an output of the network is NaN or infinite; the weights are those of before the update."""


class NotTaken(ValueError):
    """A model that the kernels do not take; the text says why."""
