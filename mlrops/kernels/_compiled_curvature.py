"""The compiled loop of products with a small matrix a leaf, for leaves too small for BLAS."""

from ._jit import jit

__all__ = ["rows_times"]


@jit
def rows_times(A, M, off, leaf, first, out, forms):
    """out_i = A_i M and forms_i = A_i M A_iᵀ, M (leaves, R, R) that of the row's leaf.

    Row 0 of A is row `first` of all, in `leaf`.
    """
    R = A.shape[1]
    for i in range(A.shape[0]):
        while off[leaf + 1] <= first + i:
            leaf += 1
        m = M[leaf]
        row = out[i]
        for j in range(R):
            row[j] = 0
        a = 0
        while a + 2 <= R:  # two rows of M at a time: one load and store of `row` for two of m
            f0 = A[i, a]
            f1 = A[i, a + 1]
            for j in range(R):
                row[j] += f0 * m[a, j] + f1 * m[a + 1, j]
            a += 2
        if a < R:
            f0 = A[i, a]
            for j in range(R):
                row[j] += f0 * m[a, j]
        s = M.dtype.type(0)
        for j in range(R):
            s += row[j] * A[i, j]
        forms[i] = s
