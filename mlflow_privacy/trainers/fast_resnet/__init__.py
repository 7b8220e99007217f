"""A residual network that trains in seconds on a GPU."""
