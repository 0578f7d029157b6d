"""Files: `save` and `load` write and read objects as ``.npz`` files without pickles.

`storable` makes them take objects of a class of yours, too.

Layout of a file
----------------
A file is an archive of kind ``"object"``: a zip of plain ``.npy`` arrays and one JSON text,
``mlrops.json``, that names the format version (``help(mlrops.io.archive)`` has the details).  Its
``meta`` holds a list ``nodes``.  Parts come before the objects that they are parts of, and the last
node is the object itself.  A node is a JSON object with

``class``
    Name of a class of the package; a class of a user's program is called by its module and name,
    see `storable`.
``values``
    Numbers, strings, tuples and None by the name of their field.
``arrays``
    By the name of the field the name of an array of the archive, or a list of such names.
``parts``
    By the name of the field the number of an earlier node, or a list of such numbers.
``read_only``
    Names of the fields of a dataclass whose arrays are read-only.  Arrays of other objects always
    are.

An object that is a part of several others is stored once, and is one object again after loading.
An array belongs to one node.

The fields of a class are the keys of its attribute ``stored_fields``, which also says what each may
be; those of the results of fits are their dataclass fields.  What these names do not tell:

============================  ======================================================================
MLR                           D (n,) and F (n, R) have their **rows in tree order**: row i belongs
                              to feature ``permutation[i]`` of the hierarchy
GeneralMLR                    so have B (m, R) and C (n, R); C is None where it is B; equal_to is
                              the MLR, Product or Scaled that the operator is equal to, or None
Woodbury, LowRank             V is None where it is U; C None stands for the identity
MLRInverse, WoodburyInverse   base is the operator that is inverted; loading forms ``base.inv()``
Wrapped                       data, indices and indptr are those of a csr_array
SURResult                     X are the different regressors, X_of tells which equation has which
``transpose``                 is no class: the node stands for ``base.T``
============================  ======================================================================
"""

from typing import TYPE_CHECKING

from .._common.lazy import lazy_names

if TYPE_CHECKING:
    from .classes import storable
    from .saving import load, save

__all__ = ["load", "save", "storable"]

__getattr__, __dir__ = lazy_names(
    __name__,
    modules=("archive", "classes", "plain", "saving"),
    names={"load": "saving", "save": "saving", "storable": "classes"},
)
