"""Factor models of features in chunks of columns: every part of F, D and the data on a worker."""
