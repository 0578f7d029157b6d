"""Standard errors, tests and intervals of coefficients: one mechanism for every regression."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from .._common.cached import cached_property
from .._common.deprecated import other_name
from .._common.optional import import_pandas
from .._common.text import coefficient_columns
from .._common.typing import FloatArray, Frame, Labelled

__all__ = ["CoefficientResults", "Inference", "half_widths"]


def half_widths(errors: FloatArray, df: FloatArray | float, alpha: float) -> FloatArray:
    """Half the width of intervals of level ``1 - alpha``.

    Quantiles are those of Student's t with `df` degrees of freedom, of the normal distribution
    where these are infinite.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    tail, known = 1 - alpha / 2, np.isinf(df)
    return np.where(known, ndtri(tail), stdtrit(np.where(known, 1, df), tail)) * errors


@dataclass(frozen=True, eq=False)
class Inference:
    """Coefficients and their precision, one after the other in flat arrays.

    The degrees of freedom are those of Student's t, infinite for the normal distribution.
    """

    params: FloatArray  # (P,)
    bse: FloatArray  # (P,), their standard errors
    df: FloatArray | float  # (P,) or one for all

    @cached_property
    def tvalues(self) -> FloatArray:
        """Coefficients over standard errors; of a standard error 0 infinite, or 0 for 0 / 0."""
        sure = np.where(self.params == 0, 0, np.copysign(np.inf, self.params))
        with np.errstate(over="ignore"):
            return np.divide(self.params, self.bse, out=sure, where=self.bse > 0)

    @cached_property
    def pvalues(self) -> FloatArray:
        """Two-sided p-values of coefficients that are 0."""
        below, known = -np.abs(self.tvalues), np.isinf(self.df)
        return 2 * np.where(known, ndtr(below), stdtr(np.where(known, 1, self.df), below))

    def conf_int(self, alpha: float = 0.05) -> FloatArray:
        """Lower and upper ends of intervals of level ``1 - alpha``, shape (P, 2)."""
        half = half_widths(self.bse, self.df, alpha)
        return np.column_stack([self.params - half, self.params + half])

    def table(self, alpha: float = 0.05) -> FloatArray:
        """What `columns` names, shape (P, 6)."""
        return np.column_stack([self.params, self.bse, self.tvalues, self.pvalues,
                                self.conf_int(alpha)])

    def columns(self, alpha: float = 0.05) -> list[str]:
        """Heads of the `table`; z in place of t where all distributions are normal."""
        return coefficient_columns(alpha, bool(np.isinf(self.df).all()))


class CoefficientResults:
    """What every regression's result says of its coefficients and rows, with their names.

    A class that inherits this has `inference`, `errors` and `fitted`, and gives numbers their
    names or shapes by `_by_coefficient`, `_by_row` and `_index`.
    """

    inference: Any  # an Inference
    errors: Any  # residuals as an array
    fitted: Any  # fitted values as an array
    _by_coefficient: Any
    _by_row: Any
    _index: Any  # of the table of coefficients

    @property
    def resid(self) -> Labelled:
        """Residuals ``y - Xβ``, an array or as the rows are named; NaN at missing cells."""
        return self._by_row(self.errors)

    @property
    def fittedvalues(self) -> Labelled:
        """Fitted values ``Xβ``, an array or as the rows are named; NaN at missing cells."""
        return self._by_row(self.fitted)

    @cached_property
    def bse(self) -> Labelled:
        """Standard errors of the coefficients, in the form of `params`."""
        return self._by_coefficient(self.inference.bse)

    @cached_property
    def tvalues(self) -> Labelled:
        """Coefficients over standard errors, in the form of `params`.

        Infinite where constraints fix a coefficient, 0 where they fix it at 0.  They are z values
        where the covariance of the errors is known.
        """
        return self._by_coefficient(self.inference.tvalues)

    @cached_property
    def pvalues(self) -> Labelled:
        """Two-sided p-values of the hypotheses that a coefficient is 0, in the form of `params`.

        Of Student's t with `df_resid` degrees of freedom, of the normal distribution where the
        covariance of the errors is known.
        """
        return self._by_coefficient(self.inference.pvalues)

    std_errors = other_name("bse")
    tstats = other_name("tvalues")
    resids = other_name("resid")
    fitted_values = other_name("fittedvalues")

    def conf_int(self, alpha: float = 0.05) -> Labelled:
        """Confidence intervals of level ``1 - alpha``.

        Parameters
        ----------
        alpha : float, default 0.05
            Between 0 and 1.

        Returns
        -------
        interval : ndarray, shape (p, 2), list of them for a system, or DataFrame
            Lower and upper ends; columns ``lower`` and ``upper``.

        Raises
        ------
        ValueError
            `alpha` is not between 0 and 1.
        """
        return self._by_coefficient(self.inference.conf_int(alpha), ["lower", "upper"])

    def to_frame(self, alpha: float = 0.05) -> Frame:
        """The table of all coefficients as a pandas DataFrame, a row a coefficient.

        Parameters
        ----------
        alpha : float, default 0.05
            Confidence intervals have level ``1 - alpha``.

        Returns
        -------
        DataFrame, shape (P, 6)
            Columns ``coef``, ``std err``, ``t`` and ``P>|t|`` (``z`` where the covariance of the
            errors is known), and the ends of the confidence intervals.  The index of a system is
            (equation, regressor), names or numbers.
        """
        return import_pandas().DataFrame(self.inference.table(alpha), index=self._index,
                                         columns=self.inference.columns(alpha))
