"""Structured matrices as SciPy linear operators, and the statistical models built on them.

Every operator here is a `scipy.sparse.linalg.LinearOperator` that also has ``solve``, ``logdet``,
``inv``, ``diagonal`` and, where it is symmetric positive definite, ``whiten``, ``color``,
``inv_quad`` and ``sample``.

Notation, used everywhere
-------------------------
========== =========================================================================================
n, N       features (rows of the operator); samples, which systems of equations call rows
L          levels of the hierarchy, coarsest first, l = 0 … L-1; the diagonal is not a level
p_l, r_l   groups at level l, rank at level l
R, R_l     total rank Σ r_l; rank of levels 0 … l
F, D       compact factors (n, R), positive diagonal (n,), which in products is diag(D)
s          factors of all groups, Σ p_l r_l: the columns of F spread out, (n, s)
F_l        columns of F of level l, (n, r_l); spread out, (n, p_l r_l), block diagonal by groups
leaf       a group of the finest level; its rows all see the same R factors, one block a level
Σ          Σ_l F_l F_lᵀ + diag(D)
Y          data (N, n), one sample a row
K, P       equations and coefficients of a system of regressions, in all; Xs is K arrays, one an
           equation, of N rows and as many columns as it has regressors
========== =========================================================================================

A worked example
----------------
Four features, two levels: one group of all (rank 1), then the groups {0, 1} and {2, 3} (rank 1).
F has R = 2 columns, one a level; spread out, the second becomes two, one a group, so that s = 3.

>>> import numpy as np
>>> from mlrops import MLR, Hierarchy
>>> h = Hierarchy.from_labels(["a", "a", "b", "b"])
>>> f0 = np.array([[1.0], [1.0], [1.0], [1.0]])
>>> f1 = np.array([[1.0], [2.0], [1.0], [0.0]])
>>> A = MLR(h, [f0, f1], D=np.ones(4))
>>> spread = np.array([[1.0, 1, 0], [1, 2, 0], [1, 0, 1], [1, 0, 0]])
>>> A.toarray()
array([[3., 3., 1., 1.],
       [3., 6., 1., 1.],
       [1., 1., 3., 1.],
       [1., 1., 1., 2.]])
>>> bool(np.allclose(A.toarray(), spread @ spread.T + np.eye(4)))
True
>>> b = A @ np.array([1.0, 2.0, 3.0, 4.0])
>>> np.round(A.solve(b), 12)
array([1., 2., 3., 4.])
>>> round(float(np.exp(A.logdet())), 9)  # the determinant
36.0

What is here
------------
========================================== =========================================================
one matrix as an array                     Diagonal, Identity, Permutation, Dense, LowRank
low rank updates                           LowRankPlusDiagonal, Woodbury
multilevel low rank matrices               MLR, MLRInverse; rectangular or unsymmetric: GeneralMLR;
                                           in parts on many machines: DistributedMLR
matrices of matrices                       Sum, Product, Scaled, Transposed, Inverse, Kronecker,
                                           BlockDiagonal; ``+ - * / @ **`` find the tightest type
operators and sparse arrays of others      as_operator, Wrapped; one of your own: StructuredOperator
is an operator right?                      check_operator
a tree of features                         Hierarchy
a tree found                               partition, partition_points, partition_features
a matrix approximated by an MLR one        fit_mlr (MLRFit), allocate_ranks (RankAllocation)
factor models                              fit_factor_model (FactorModelResult); as an estimator
                                           of scikit-learn `mlrops.sklearn.FactorModel`
their ranks                                select_ranks (RankSelection)
one regression, correlated errors          gls (GLSResult)
a system of regressions                    SUR by names, als_gls by arrays (SURResult); em_gls, the
                                           dense way; ranks: select_sur_ranks
fits that did not converge, or cannot      ConvergenceWarning, UnboundedWarning
what the callback of a fit gets            Iterate
files                                      save, load; format: ``help(mlrops.io)``
data, simulators, test matrices            `mlrops.datasets`
pictures                                   `mlrops.plotting`
in a shell                                 ``python -m mlrops``
========================================== =========================================================
"""


from typing import TYPE_CHECKING

from ._common.lazy import lazy_names

if TYPE_CHECKING:  # for type checkers and editors; what runs is the table below
    from ._common.convergence import ConvergenceWarning, UnboundedWarning
    from ._common.driver import Iterate
    from .factor import FactorModelResult, RankSelection, fit_factor_model, select_ranks
    from .fitting import (
        MLRFit,
        RankAllocation,
        allocate_ranks,
        fit_mlr,
        partition,
        partition_features,
        partition_points,
    )
    from .io import load, save
    from .operators import (
        MLR,
        BlockDiagonal,
        Dense,
        Diagonal,
        GeneralMLR,
        Identity,
        Inverse,
        Kronecker,
        LowRank,
        LowRankPlusDiagonal,
        MLRInverse,
        Permutation,
        Product,
        Scaled,
        StructuredOperator,
        Sum,
        Transposed,
        Woodbury,
        Wrapped,
        as_operator,
        check_operator,
    )
    from .operators.distributed import DistributedMLR
    from .regression import SUR, GLSResult, SURResult, als_gls, em_gls, gls, select_sur_ranks
    from .tree.hierarchy import Hierarchy

__version__ = "0.2.0"
__all__ = [
    "BlockDiagonal",
    "ConvergenceWarning",
    "Dense",
    "Diagonal",
    "DistributedMLR",
    "FactorModelResult",
    "GLSResult",
    "GeneralMLR",
    "Hierarchy",
    "Identity",
    "Inverse",
    "Iterate",
    "Kronecker",
    "LowRank",
    "LowRankPlusDiagonal",
    "MLR",
    "MLRFit",
    "MLRInverse",
    "Permutation",
    "Product",
    "RankAllocation",
    "RankSelection",
    "SUR",
    "SURResult",
    "Scaled",
    "StructuredOperator",
    "Sum",
    "Transposed",
    "UnboundedWarning",
    "Woodbury",
    "Wrapped",
    "allocate_ranks",
    "als_gls",
    "as_operator",
    "check_operator",
    "datasets",
    "em_gls",
    "fit_factor_model",
    "fit_mlr",
    "gls",
    "load",
    "partition",
    "partition_features",
    "partition_points",
    "save",
    "select_ranks",
    "select_sur_ranks",
]
_HOMES = {  # module: the names it has
    "operators": (
        "MLR BlockDiagonal Dense Diagonal GeneralMLR Identity Inverse Kronecker LowRank "
        "LowRankPlusDiagonal MLRInverse Permutation Product Scaled StructuredOperator Sum "
        "Transposed Woodbury Wrapped as_operator check_operator"
    ),
    "operators.distributed": "DistributedMLR",
    "fitting": (
        "MLRFit RankAllocation allocate_ranks fit_mlr partition partition_features "
        "partition_points"
    ),
    "factor": "FactorModelResult RankSelection fit_factor_model select_ranks",
    "regression": "GLSResult SUR SURResult als_gls em_gls gls select_sur_ranks",
    "tree.hierarchy": "Hierarchy",
    "io": "load save",
    "_common.convergence": "ConvergenceWarning UnboundedWarning",
    "_common.driver": "Iterate",
}
if not TYPE_CHECKING:  # a type checker would take any name for one of the package
    __getattr__, __dir__ = lazy_names(
        __name__,
        modules=("cli", "datasets", "factor", "fitting", "io", "models", "operators", "plotting",
                 "regression", "sklearn", "tree"),
        names={name: home for home, names in _HOMES.items() for name in names.split()})
