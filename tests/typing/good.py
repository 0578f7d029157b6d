"""User code over the whole public face, which type checkers must accept; it also runs."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse.linalg import LinearOperator

import mlrops
from mlrops import MLR, SUR, GeneralMLR, Hierarchy, Iterate, StructuredOperator
from mlrops.datasets import load_french, load_grunfeld, simulate_mlr, simulate_sur

rng = np.random.default_rng(0)
array: npt.NDArray[np.floating[Any]] = rng.standard_normal((6, 6))

# ---------------------------------------------------------------- trees

tree = Hierarchy.from_labels(["a", "a", "a", "b", "b", "b"])
tree = Hierarchy.balanced(6, (1, 2))
labels: npt.NDArray[Any] = tree.labels(1)
count: int = tree.n_levels

# ---------------------------------------------------------------- operators

covariance = MLR(tree, [array[:, :2], array[:, 2:3]], np.ones(6))
solution: npt.NDArray[Any] = covariance.solve(array[:, 0])
determinant: float = covariance.logdet()
sign, logarithm = covariance.slogdet()
draws: npt.NDArray[Any] = covariance.sample(5, random_state=0)
inverse: LinearOperator = covariance.inv()
both: LinearOperator = covariance + mlrops.Diagonal([1.0, 2, 3, 4, 5, 6])
scaled: LinearOperator = 2.0 * covariance @ mlrops.Identity(6)
general = GeneralMLR(tree, tree, [array[:, :1], array[:, 1:2]], [array[:, 2:3], array[:, 3:4]])
woodbury = mlrops.LowRankPlusDiagonal(array[:, :1], np.ones(6))
trace: float = woodbury.trace()
wrapped: StructuredOperator = mlrops.as_operator(array)
report = mlrops.check_operator(covariance)
dense: npt.NDArray[Any] = general.toarray()

# ---------------------------------------------------------------- fits of matrices

kernel = np.exp(-np.abs(np.subtract.outer(np.arange(6.0), np.arange(6))))
rows, cols = mlrops.partition(kernel, 2, method="spectral", random_state=0)
rows, cols = mlrops.partition_points([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]], n_levels=2)
near = mlrops.fit_mlr(kernel, [1, 1], rows, method="bcd", tol=1e-3, max_iter=5)
error: float = near.error
shared = mlrops.allocate_ranks(kernel, 2, tree, start="top", max_iter=2, random_state=rng)
unformed = mlrops.allocate_ranks(None, 2, points=kernel, kernel="gaussian", scale=2.0, max_iter=2)
blocks = mlrops.fit_mlr(None, [1, 1], rows, entries=lambda i, j: kernel[i][:, j], samples=5)
ranks: tuple[int, ...] = shared.ranks
text: str = shared.summary()

# ---------------------------------------------------------------- factor models

seen: list[float] = []


def watch(iterate: Iterate) -> None:
    seen.append(iterate.objective)


samples = simulate_mlr(Hierarchy.balanced(12, (1, 3)), (2, 1), 60, random_state=0).Y
twelve = Hierarchy.balanced(12, (1, 3))
model = mlrops.fit_factor_model(
    samples, (2, 1), twelve, init="svd", missing="raise", callback=watch, max_iter=50
)
score: float = model.score(samples)
scores = model.scores(pd.DataFrame(samples), level=0, method="bartlett")
rotated = model.rotate("varimax")
selection = mlrops.select_ranks(samples, hierarchy=twelve, total_rank=3, criterion="bic")
best: tuple[int, ...] = selection.ranks
found = mlrops.partition_features(samples, (1, 1), random_state=0)

# ---------------------------------------------------------------- regressions

X = np.column_stack([np.ones(12), samples[0]])
regression = mlrops.gls(X, samples[1], model.covariance, solver="cg", rtol=1e-9)
intervals = regression.conf_int(0.1)
system = simulate_sur(4, 2, ranks=1, n_samples=40, random_state=0)
fast = mlrops.als_gls(system.Xs, system.Y, 1, tol=1e-6, solver="cg")
slow = mlrops.em_gls(system.Xs, system.Y, 1, max_iter=20)
firms = load_grunfeld()
equations = {"y1": (system.Y[:, 0], system.Xs[0]), "y2": (system.Y[:, 1], system.Xs[1])}
result = SUR(equations).fit(1, cov_type="robust")
robust = result.with_cov("unadjusted")
params, bse = result.params, result.bse
test = result.wald_test([{("y1", "x0"): 1.0}])
p: float = test.pvalue

# ---------------------------------------------------------------- files and pictures


def keep_and_draw(folder: Path) -> None:
    from mlrops.plotting import plot_hierarchy, plot_loglik, plot_matrix, plot_sparsity

    mlrops.save(folder / "covariance.npz", covariance)
    again = mlrops.load(folder / "covariance.npz")
    assert isinstance(again, MLR)
    ax = plot_hierarchy(tree, kind="blocks", names=list("abcdef"))
    ax = plot_loglik({"fit": model}, ax, gap=True)
    ax = plot_matrix(kernel, rows, level=1)
    plot_sparsity(covariance, "cholesky", order="natural").set_title("fill")


names: tuple[str, ...] = tuple(load_french().names)
