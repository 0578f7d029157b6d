"""How a bad file is refused."""

import warnings

import pytest

import mlrops


def refused(path, reason=None, load=mlrops.load):
    """Loading gives exactly the one error, with the path in it, and no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=reason) as caught:
            load(path)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"cannot read {str(path)!r}: ")
    assert str(caught.value).count("cannot read") == 1
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
