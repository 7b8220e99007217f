"""What code and data are, for fingerprints: where a thing comes from, what its code does, what its values are."""


class Untold(ValueError):
    """A thing of which nothing says what it does; the message says why."""
