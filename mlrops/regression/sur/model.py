"""`SUR`: seemingly unrelated regressions of equations that have names."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np

from ..._common.cluster import is_dask
from ..._common.deprecated import renamed_options
from ..._common.frames import read_columns
from ..._common.optional import import_pandas
from ..._common.typing import Callback, Labelled, Labels, Method, Optimizer, Ranks, Solver
from ..._common.wording import counted, name_some
from ...factor.selection import CRITERIA, RankOptions, RankSelection
from ...tree.hierarchy import Hierarchy
from .als_gls import SUROptions, check_hierarchy, fit_system
from .constraints import parameter_names, read_constraints
from .covariance import CovType, read_kwds
from .data import SystemNames
from .equations import read_system
from .groups import read_covariance, read_tree
from .parts.model import DistributedSUR
from .result import SURResult
from .selection import select_system_ranks

__all__ = ["SUR"]


class SUR:
    r"""Seemingly unrelated regressions: equations whose errors share factors.

    The model of `als_gls` for equations with names, which may lack rows or cells, carry weights
    and be tied by linear constraints on their coefficients.

    Parameters
    ----------
    equations : dict, or tuple of two dask arrays
        ``{name: {"dependent": y, "exog": X, "weights": w}}`` or ``{name: (y, X, w)}``, weights
        optional: y one column (N,), X (N, p_j) or one column (N,), w (N,), as arrays, frames or
        series; X also as a dict of columns, y and w as dicts by row.  An intercept is a column of
        X.  Error variances are proportional to ``1 / w``; weights are scaled to mean 1 in every
        equation.  ``(Y, X)`` with a dask array Y (N, K) in chunks of columns are all equations at
        once, in parts on the workers of a cluster: X (N, p) for all of them, an array or a dask
        array, or a dask array (N, K, p) in the chunks of Y.  See `DistributedSUR`.
    constraints : optional
        As for `add_constraints`: a matrix, a dict, or a list of dicts or of (dict, value).
    missing : {"cells", "drop", "raise"}, optional
        Where y, X or w of an equation is NaN, masked or None, or y or X has no row of that label,
        the equation lacks this cell.  ``"cells"`` leaves cells out of the likelihood, so that rows
        with fewer equations count for those they have; ``"drop"`` leaves incomplete rows out of all
        equations, with a warning; ``"raise"`` refuses them.  Rows without any equation are always
        left out.

    Attributes
    ----------
    data : SURData
        The equations as one table.
    equations : tuple of K str
        Names of the equations.
    param_names : list of P str
        ``"equation_regressor"``, equation by equation.
    nobs : dict
        Number of cells of each equation.
    dropped : list
        Labels (or numbers) of the rows that were left out.
    constraints : DataFrame or None
        R and, in the last column ``"q"``, the values.

    Raises
    ------
    ValueError, TypeError
        No equations, names given twice, variables that are not numbers, infinite values, row labels
        given twice or of different kinds, arrays of different lengths, weights that are not
        positive, equations with fewer cells than ``p_j + 1`` or without a row in common with
        others, missing cells with ``missing="raise"``; the message names equation, column and row.
        Constraints that name no coefficient.

    Warns
    -----
    UserWarning
        Rows are dropped by ``missing="drop"``.

    See Also
    --------
    als_gls : the same for arrays, without names, weights or missing cells.

    Notes
    -----
    *Rows.*  Objects with an index are put together by it: the rows are the union of the labels,
    sorted where every index is, else in the order in which they come.  Weights must have the rows
    of their equation, and may have more.  Arrays of an equation whose other variables have an index
    take their labels; where nothing has labels, all arrays must have the same rows.  Frames of
    polars and other libraries have names of columns, but no labels of rows.

    *Names.*  Regressors are called as the columns of X, or x0, x1, ... where X has no names.  What
    later speaks of equations, regressors or rows (covariances, groups, clusters, constraints, new
    data) is matched to these names, and refused where it has others.

    *One equation* is ordinary (weighted) regression by maximum likelihood: there is no other
    equation to share factors with, and any `ranks` count as 0.

    References
    ----------
    A. Zellner, "An efficient method of estimating seemingly unrelated regressions and tests for
    aggregation bias", 1962.

    Examples
    --------
    Investment of 11 firms by their value and capital stock, with one factor in the errors:

    >>> from mlrops.datasets import load_grunfeld
    >>> from mlrops import SUR
    >>> panel = load_grunfeld().to_frame()
    >>> panel["const"] = 1.0
    >>> regressors = ["value", "capital", "const"]
    >>> equations = {firm: {"dependent": rows["invest"], "exog": rows[regressors]}
    ...              for firm, rows in panel.set_index("year").groupby("firm")}
    >>> model = SUR(equations)
    >>> model
    <SUR: 11 equations, 33 coefficients, 20 rows>
    >>> fit = model.fit(ranks=1)
    >>> fit.params["General Electric"][["value", "capital"]].round(3).to_dict()
    {'value': 0.045, 'capital': 0.101}
    >>> model.fit(ranks="bic").selection
    <RankSelection: ranks (2,), the best of 4 candidates by bic>

    With the unrestricted covariance of least squares' residuals: feasible generalized least
    squares.

    >>> pair = SUR({firm: equations[firm] for firm in ("General Electric", "Westinghouse")})
    >>> zellner = pair.fit(method="fgls")
    >>> zellner.params["Westinghouse"].round(4).to_dict()
    {'value': 0.0576, 'capital': 0.064, 'const': -1.252}

    Equal effects of value in both:

    >>> tied = SUR({firm: equations[firm] for firm in pair.equations}, constraints=[
    ...     {("General Electric", "value"): 1, ("Westinghouse", "value"): -1}])
    >>> effect = tied.fit(covariance=zellner.covariance).params.xs("value", level="regressor")
    >>> effect.round(4).tolist()
    [0.0477, 0.0477]
    """

    def __new__(cls, equations: Any = None, **options: Any) -> Any:
        """Of dask arrays a `DistributedSUR`."""
        if isinstance(equations, tuple) and any(map(is_dask, equations)):
            return DistributedSUR(equations, **options)
        return super().__new__(cls)

    def __init__(self, equations: Mapping[str, Any] | tuple[Any, Any], *, constraints: Any = None,
                 missing: Literal["cells", "drop", "raise"] = "cells") -> None:
        self.missing = missing
        if isinstance(equations, Mapping):
            _refuse_dask(equations.values())
        self.data, self.dropped = read_system(cast(Any, equations), missing)
        if constraints is not None:
            self.add_constraints(constraints)

    @classmethod
    def multivariate_ls(cls, dependent: Any, exog: Any, **options: Any) -> "SUR":
        """Equations that share their regressors, one for each column of `dependent`.

        Parameters
        ----------
        dependent : DataFrame, dict of columns, array_like or dask array, shape (N, K)
            Columns without names are called y0, y1, ...
        exog : DataFrame, dict of columns or array_like, shape (N, p)
            Also a dask array where `dependent` is one.
        **options : optional
            Further arguments of `SUR`.

        Returns
        -------
        SUR
            Of a dask array a `DistributedSUR`.

        Raises
        ------
        ValueError, TypeError
            `dependent` is no table, has two columns of one name; and as `SUR`.

        Examples
        --------
        >>> import numpy as np
        >>> from mlrops import SUR
        >>> rng = np.random.default_rng(0)
        >>> model = SUR.multivariate_ls(rng.standard_normal((50, 3)), np.ones(50))
        >>> model.param_names
        ['y0_x0', 'y1_x0', 'y2_x0']
        """
        if is_dask(dependent) or is_dask(exog):
            return cls((dependent, exog), **options)
        Y = read_columns(dependent, "dependent")
        if np.ndim(dependent) == 1:
            raise ValueError("dependent must be a table of rows by equations, got shape"
                             f" {np.shape(dependent)}")
        columns = list(Y.values.T)
        if Y.index is not None:
            columns = [import_pandas().Series(y, index=Y.index) for y in columns]
        names = Y.columns or [f"y{j}" for j in range(len(columns))]
        return cls({name: (y, exog) for name, y in zip(names, columns, strict=True)}, **options)

    @property
    def _names(self) -> SystemNames:
        assert self.data.names is not None  # `read_system` gives all of them
        return self.data.names

    @property
    def equations(self) -> tuple[str, ...]:
        """Names of the equations (tuple of K str)."""
        return self._names.equations

    @property
    def param_names(self) -> list[str]:
        """Names of the coefficients, equation by equation (list of P str)."""
        return parameter_names(self._names)

    @property
    def nobs(self) -> dict[str, int]:
        """Number of cells of each equation (dict)."""
        return dict(zip(self.equations, map(int, self.data.nobs), strict=True))

    @property
    def constraints(self) -> Labelled | None:
        """R with a column of values q (DataFrame), or None."""
        if self.data.constraints is None:
            return None
        pd = import_pandas()
        R, q = self.data.constraints
        frame = pd.DataFrame(R, index=list(self._names.constraints), columns=self.param_names)
        return frame.assign(q=q)

    def __repr__(self) -> str:
        data = self.data
        parts = [counted(data.K, "equation"), counted(data.p.sum(), "coefficient"),
                 counted(data.N, "row")]
        if data.observed is not None:
            parts.append(f"{data.observed.size - data.observed.sum()} of"
                        f" {counted(data.observed.size, 'cell')} missing")
        if self.dropped:
            parts.append(f"{counted(len(self.dropped), 'row')} dropped")
        if data.weights is not None:
            parts.append("weighted")
        if data.constraints is not None:
            parts.append(counted(data.constraints[1].size, "constraint"))
        return f"<SUR: {', '.join(parts)}>"

    def add_constraints(self, R: Any, q: Any = None) -> None:
        """Tie coefficients by ``R β = q``, in addition to the constraints there are.

        Parameters
        ----------
        R : DataFrame, array_like, dict, Series, or list of dict or (dict, float)
            A matrix with one constraint a row: as DataFrame its columns are `param_names`, or a
            MultiIndex of (equation, regressor), in any order; coefficients without a column count
            0.  As array (m, P) its columns are in the order of `param_names`.  Or dicts of factors
            by (equation, regressor) or by name, with a value other than 0 beside them:
            ``[{("a", "x"): 1, ("b", "x"): -1}, ({("a", "z"): 1}, 0.5)]``; one constraint also as a
            Series.
        q : array_like (m,), Series, dict or float, optional
            Values of the rows of a matrix, default 0; a Series or dict is read by R's index.

        Raises
        ------
        ValueError, TypeError
            Coefficients that do not exist or are named twice, NaN, lengths that differ.  Whether
            constraints contradict one another is seen by `fit`, which names them; what follows from
            the others is left out.
        """
        R, q, labels = read_constraints(R, q, self._names)
        if self.data.constraints is not None:
            R, q = (np.concatenate(both) for both in zip(self.data.constraints, (R, q),
                                                         strict=True))
            labels = self._names.constraints + labels
        self._constrain((R, q) if len(q) else None, labels)

    def reset_constraints(self) -> None:
        """Drop all constraints."""
        self._constrain(None, ())

    def _constrain(self, constraints: Any, labels: tuple[str, ...]) -> None:
        self.data = replace(self.data, constraints=constraints,
                            names=self._names._replace(constraints=labels))

    @renamed_options(cov_config="cov_kwds", max_cg_iter="maxiter")
    def fit(self, ranks: Ranks | str | None = None, hierarchy: Hierarchy | Labels | None = None, *,
            covariance: Any = None, cov_type: CovType = "unadjusted",
            cov_kwds: Mapping[str, Any] | None = None,
            rank_options: Mapping[str, Any] | None = None, solver: Solver = "cg",
            tol: float = 1e-9, gtol: float = 1e-5, max_iter: int = 200, maxiter: int = 1000,
            variance_floor: float = 1e-6, beta_ridge: float = 0.0, factor_ridge: float = 0.0,
            optimizer: Optimizer = "auto", prior: float | bool | None = None,
            prior_variance: Labels | float | None = None, method: Method = "factor",
            dfk: bool = False, small: bool = False, progress: bool = False,
            callback: Callback | None = None) -> SURResult:
        """Coefficients and error covariance by maximum likelihood, or coefficients given Σ.

        Parameters
        ----------
        ranks : int, sequence of int, or {"bic", "aic", "cv"}
            Number of factors of each level, coarsest first; or what chooses them, see
            `select_sur_ranks`.  Default ``"bic"``, where factors are fitted.
        hierarchy : Hierarchy or labels, optional
            Groups of equations: a Hierarchy of the equations in their order; a dict by equation of
            one label or of a tuple of labels, coarse to fine; a Series or DataFrame indexed by
            equation, columns coarse to fine; or one list of labels a level, in the order of the
            equations.  From labels, level 0 is one group of all equations and level 1 the first
            labels, so that two levels of labels take three ranks.
        covariance : StructuredOperator, array_like or DataFrame, shape (K, K), optional
            A Σ to keep, in place of `ranks` and `hierarchy`; a DataFrame is read by the names of
            the equations.  Arrays that are symmetric up to rounding are made so.  Where cells are
            missing, an MLR or an array, of which an equal MLR is made.
        cov_type : str, optional
            Kind of standard errors, see `SURResult.with_cov`.
        cov_kwds : dict, optional
            Its options.  Clusters with an index are read by the labels of the rows.
        rank_options : dict, optional
            Options of `select_sur_ranks` where ranks are to be chosen: ``max_rank``, ``n_folds``,
            ``random_state``, ...
        solver, tol, gtol, max_iter, maxiter, variance_floor
            As for `als_gls`.
        beta_ridge, factor_ridge, optimizer, prior, prior_variance
            As for `als_gls`.
        method : {"factor", "fgls", "ifgls"}, optional
            What Σ is: ``"factor"``, a matrix of factors by maximum likelihood; ``"fgls"``, the
            unrestricted covariance of the residuals of least squares equation by equation, then
            GLS with it, one step (Zellner 1962); ``"ifgls"``, the same step repeated to the maximum
            of the likelihood over unrestricted Σ, until derivatives by Σ are below `gtol`.  The
            latter two take no ranks and need more rows than equations; see *Feasible GLS*.
        dfk : bool, optional
            Of ``"fgls"`` and ``"ifgls"``: divide sums of products of residuals by
            ``√((N - p_i) (N - p_j))`` in place of N, as Stata's ``dfk``.
        small : bool, optional
            Of the same: t and F statistics in place of z and χ², with the cells of all equations
            less all free coefficients as degrees of freedom, as Stata's ``small``.
            linearmodels' ``debiased=True`` is ``small=True, dfk=True``.
        progress, callback
            As for `als_gls`.

        Returns
        -------
        SURResult
            Coefficients and what belongs to them as Series with index (equation, regressor).
            Where ranks were chosen, ``selection`` is the `RankSelection` with the table.

        Raises
        ------
        ValueError, TypeError
            What `als_gls` raises, with equations, regressors and constraints by their names; labels
            that do not cover the equations; constraints that contradict one another; more factors
            than the data can carry: an equation needs more cells than it has regressors and
            factors; options of another method; an unrestricted Σ that is not positive definite, as
            always with more equations than rows.

        Warns
        -----
        ConvergenceWarning
            As for `als_gls`; ``"ifgls"`` stopped at `max_iter`, or does not reach `gtol`.

        Notes
        -----
        A group gets as many factors as it has equations at most, which already give every
        covariance it can have, at all levels together at which it stands; ``result.capped`` lists
        the groups for which that is less than the rank.

        With R factors and N rows the likelihood has no maximum where R + 1 equations have N - R
        regressors or more in all: their errors can be made to depend on one another.  Such fits
        take long and end at the floor of D, with a warning; ranks that are chosen stay below.
        With a `prior` there is a maximum.

        *Feasible GLS.*  Standard errors are those of ``(Xᵀ(Σ⁻¹⊗I)X)⁻¹`` with the Σ that gave the
        coefficients, as in linearmodels and Stata, whose coefficients, errors and test statistics
        these equal.  Weights multiply residuals by their square roots.  With constraints least
        squares satisfies them, too.  Where cells are missing, ``"fgls"`` takes each covariance from
        the rows that both equations have, which linearmodels and Stata leave out where a third one
        lacks them, and ``"ifgls"`` takes steps of EM, to the maximum of the likelihood of the cells
        there are.  An estimate of Σ that is not positive definite is refused.  So is ``"ifgls"``
        where equations and their independent regressors are more than the rows, of complete samples
        without constraints: the likelihood then has no maximum.  With ``dfk=True``
        ``"ifgls"`` does not end at that maximum, but at the fixed point of its steps, as Stata's
        ``isure dfk``.  `llf` is the log-likelihood at these coefficients and this Σ.

        Examples
        --------
        >>> from mlrops import SUR
        >>> from mlrops.datasets import load_grunfeld
        >>> panel = load_grunfeld().to_frame().assign(const=1.0)
        >>> firms = panel.set_index("year").groupby("firm")
        >>> model = SUR({firm: (rows["invest"], rows[["value", "capital", "const"]])
        ...              for firm, rows in firms if firm in ("General Electric", "Westinghouse")})
        >>> fit = model.fit(method="fgls", dfk=True, small=True)
        >>> fit.params["Westinghouse"].round(4).to_dict()
        {'value': 0.0576, 'capital': 0.064, 'const': -1.252}
        >>> fit.bse["Westinghouse"].round(4).to_dict()
        {'value': 0.0145, 'capital': 0.053, 'const': 7.5452}
        >>> float(fit.df_resid.iloc[0]), model.fit(method="ifgls").llf > fit.llf
        (34.0, True)
        """
        options = SUROptions(
            solver=solver, tol=tol, gtol=gtol, max_iter=max_iter, maxiter=maxiter,
            variance_floor=variance_floor, beta_ridge=beta_ridge, factor_ridge=factor_ridge,
            optimizer=optimizer, prior=prior, method=method, dfk=dfk,
            small=small).with_variances(prior_variance, self.data)
        cov_kwds = read_kwds(cov_type, cov_kwds or {}, self._names.rows)
        tree = read_tree(hierarchy, self.data)
        covariance = read_covariance(covariance, self.equations, self.data.K)
        if ranks is None and covariance is None and method == "factor":
            ranks = "bic"
        if isinstance(ranks, str) and method == "factor":
            if covariance is not None:
                raise ValueError("covariance is given: there are no ranks to choose")
            selection = self._choose(ranks, tree, options, rank_options, progress, callback)
            chosen: Any = selection.fit
            chosen = replace(chosen, selection=replace(selection, fit=None))
            return chosen.with_cov(cov_type, **cov_kwds)
        if rank_options is not None:
            raise ValueError(f"rank_options choose ranks, which are given: {ranks!r}")
        if covariance is None and method == "factor":
            tree = check_hierarchy(tree, self.data.K)
        fit = fit_system(self.data, ranks, tree, options, covariance=covariance,
                         progress=progress, callback=callback)
        return fit.with_cov(cov_type, **cov_kwds)

    def _choose(self, criterion: str, hierarchy: Hierarchy | None, options: SUROptions,
                rank_options: Mapping[str, Any] | None, progress: bool,
                callback: Callback | None) -> RankSelection:
        if criterion not in CRITERIA:
            raise ValueError(f"ranks must be numbers or one of {', '.join(map(repr, CRITERIA))},"
                             f" got {criterion!r}")
        given = dict(rank_options or {})
        taken = sorted({"criterion", "refit", "progress"} & set(given))
        if taken:
            raise ValueError(f"rank_options must not hold {name_some(taken)}: fit decides them")
        random_state = given.pop("random_state", None)
        unknown = sorted(set(given) - set(RankOptions._fields))
        if unknown:
            raise TypeError("rank_options must be options of select_sur_ranks, got"
                            f" {name_some(unknown)}")
        choice = RankOptions(**given, criterion=criterion, progress=progress)
        return select_system_ranks(self.data, hierarchy, choice, options,
                                   random_state=random_state, callback=callback, stacklevel=7)


def _refuse_dask(given: Any) -> None:
    """Refuse collections of dask, which have no names of equations, by what takes them."""
    for value in given:
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(
            value, (tuple, list)) else [value]
        found = next((part for part in parts if is_dask(part)), None)
        if found is not None:
            raise TypeError(
                f"equations with names must be in memory, got a dask {type(found).__name__}, which"
                " is not computed unasked: give its compute(), or all equations at once,"
                " SUR((Y, X)) with a dask array Y (N, K) in chunks of columns, and an array (N, p)"
                " for all equations or a dask array (N, K, p)")
