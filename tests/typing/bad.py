"""Mistakes of users, one a line, that type checkers must find: each is marked with its code."""

import numpy as np

import mlrops
from mlrops import MLR, SUR, Hierarchy, Iterate
from mlrops.plotting import plot_hierarchy, plot_rank_allocation, plot_sparsity

Y = np.ones((20, 4))
tree = Hierarchy.balanced(4, (1, 2))
model = mlrops.fit_factor_model(Y, 1)

# ---------------------------------------------------------------- options that do not exist

mlrops.fit_factor_model(Y, 1, max_iters=10)  # error: call-arg
mlrops.fit_mlr(Y, 1, tree, tolerance=1e-3)  # error: call-arg
mlrops.allocate_ranks(Y, 2, tree, seed=0)  # error: call-arg
mlrops.partition(Y, 2, levels=2)  # error: call-arg
mlrops.partition_points(Y, depth=2)  # error: call-arg
mlrops.gls(Y, Y[:, 0], mlrops.Identity(20), solve="cg")  # error: call-arg
mlrops.als_gls([Y], Y, 1, iterations=5)  # error: call-arg
SUR({}).fit(1, cov="robust")  # error: call-arg
plot_hierarchy(tree, label="a")  # error: call-arg
Iterate(0, 1.0, likelihood=2.0)  # error: call-arg

# ---------------------------------------------------------------- words that are none

mlrops.fit_mlr(Y, 1, tree, method="gc")  # error: arg-type
mlrops.fit_mlr(Y, 1, tree, order="down")  # error: arg-type
mlrops.allocate_ranks(Y, 2, tree, start="middle")  # error: arg-type
mlrops.partition(Y, 2, method="kmeans")  # error: arg-type
mlrops.fit_factor_model(Y, 1, init="pca")  # error: arg-type
mlrops.fit_factor_model(Y, 1, missing="drop")  # error: arg-type
mlrops.select_ranks(Y, criterion="hqic", max_rank=2)  # error: arg-type
mlrops.gls(Y, Y[:, 0], mlrops.Identity(20), solver="gc")  # error: arg-type
mlrops.als_gls([Y], Y, 1, solver="qr")  # error: arg-type
SUR({}).fit(1, cov_type="white")  # error: arg-type
model.scores(Y, method="regression")  # error: arg-type
model.rotate("oblimin")  # error: arg-type
plot_hierarchy(tree, kind="circles")  # error: arg-type
plot_sparsity(MLR.from_compact(tree, (1, 0), Y[:4, :1], Y[0]), "G")  # error: arg-type

# ---------------------------------------------------------------- values of another type

mlrops.fit_factor_model(3.0, 1)  # error: arg-type
mlrops.fit_mlr("kernel.npy", 1, tree)  # error: arg-type
mlrops.partition({"a": [1.0]}, 2)  # error: arg-type
mlrops.fit_factor_model(Y, "1")  # error: arg-type
mlrops.fit_factor_model(Y, 1, callback=3)  # error: arg-type
mlrops.partition_points("points")  # error: arg-type
mlrops.partition_features({"a": 1.0}, (1, 1))  # error: arg-type
mlrops.LowRankPlusDiagonal({"a": 1.0}, np.ones(4))  # error: arg-type
mlrops.Diagonal("1 2 3")  # error: arg-type
mlrops.Identity(3).solve({"b": 1.0})  # error: arg-type
model.covariance.solve("b")  # error: arg-type
model.score("Y")  # error: arg-type
mlrops.als_gls([Y], "Y", 1)  # error: arg-type
mlrops.save(3, tree)  # error: arg-type
plot_rank_allocation(model)  # error: arg-type

# ---------------------------------------------------------------- what is missing, or is not there

mlrops.select_ranks()  # error: call-arg
mlrops.fit_mlr(Y)  # error: call-arg
mlrops.partition(Y)  # error: call-arg
mlrops.gls(Y, Y[:, 0])  # error: call-arg
Hierarchy.balanced(4)  # error: call-arg
print(model.log_likelihood)  # error: attr-defined
print(mlrops.fit_mlr(Y, 1, tree).erorr)  # error: attr-defined
mlrops.fit_factor_models(Y, 1)  # error: attr-defined
