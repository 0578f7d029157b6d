"""Tests of hypotheses and measures of fit of a fitted system."""

__all__ = ["SystemTests"]


class SystemTests:
    """What `SURResult` can be asked about its fit."""
