"""Compiled passes over samples that serve one kind of E-step and nobody else.

They stand beside the E-step they serve, not with the kernels of trees: this and the bisection of
`mlrops.fitting` are the exceptions to the rule that models compile nothing.
"""

from ...._common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__, modules=("incomplete", "incomplete_solve", "moments"))
