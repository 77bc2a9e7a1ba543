"""How long tests go on that could go on for ever: with EFFORT=20 in the environment they try twenty times as much."""

import os

EFFORT = float(os.environ.get("EFFORT", "1"))


def times(usual):
    """So many examples."""
    return max(1, round(usual * EFFORT))


def one_in(usual):
    """One in so many of a long row."""
    return max(1, round(usual / EFFORT))
