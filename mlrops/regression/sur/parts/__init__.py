"""Systems of regressions in chunks of equations: every part of data and vectors on a worker."""
