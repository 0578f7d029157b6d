"""The warning of iterations that stop early, or at the boundary of the parameters."""

__all__ = ["ConvergenceWarning", "UnboundedWarning"]


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged, or at the boundary of the parameters.

    The message says what was reached and what to do.  Fits return what they have all the same, with
    ``converged`` False, or the features at the boundary in ``boundary``.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from mlrops import ConvergenceWarning, fit_factor_model
    >>> Y = np.random.default_rng(0).standard_normal((50, 6))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     fit = fit_factor_model(Y, ranks=1, max_iter=1)
    >>> issubclass(caught[0].category, ConvergenceWarning), fit.converged
    (True, False)
    """


class UnboundedWarning(ConvergenceWarning):
    """The likelihood has no maximum: what a fit returns is what a floor of its variances makes it.

    The message says which variables run off, and how many factors there are for them.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> from mlrops import UnboundedWarning, fit_factor_model
    >>> Y = np.random.default_rng(0).standard_normal((5, 20))
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     fit = fit_factor_model(Y, ranks=4)
    >>> issubclass(caught[0].category, UnboundedWarning)
    True
    """
