"""Standard errors, intervals and covariances of the coefficients of a fitted system."""

from functools import cached_property

import numpy as np

__all__ = ["Inference"]

# Coefficients up to which their covariance is formed as one dense matrix.
MOST_COEFFICIENTS = 2000


class Inference:
    """What `SURResult` knows of the precision of its coefficients."""

    def cov_params(self):
        r"""Covariance of the coefficients, :math:`(X^T (I \otimes \Sigma^{-1}) X)^{-1}`.

        Exact, from dense matrices: for P coefficients in all, P²+K² numbers and P³ flops.  Σ is
        taken as it stands, known or estimated; that it was estimated adds nothing here, so for
        small N the truth is larger.

        Returns
        -------
        ndarray, shape (P, P)
            Coefficients equation by equation, as ``numpy.concatenate(result.params)``.

        Raises
        ------
        ValueError
            More than 2000 coefficients.
        """
        P = sum(b.size for b in self.coefficients)
        if P > MOST_COEFFICIENTS:
            raise ValueError(f"cov_params forms dense matrices of at most {MOST_COEFFICIENTS}"
                             f" coefficients, the system has {P}; fit fewer equations at a time"
                             " with covariance= for standard errors")
        return self.system.coefficient_covariance(self.covariance)

    @cached_property
    def bse(self):
        """Standard errors of the coefficients, list of K arrays (p_j,); see `cov_params`."""
        return self._by_coefficient(np.sqrt(self.cov_params().diagonal()))
