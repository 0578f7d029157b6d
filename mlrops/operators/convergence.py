"""The warning of iterations that stop early, or at the boundary of the parameters."""

__all__ = ["ConvergenceWarning"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged, or at the boundary of the parameters."""
