"""libsae: sparse autoencoders (SAEs): encode, decode, compare and steer activations.

    import libsae

    sae = libsae.open("path/to/sae")                # a SAELens folder
    codes = sae.encode(x)                           # x [n_rows][d_in]: NumPy or CPU torch, never copied
    x_hat = sae.decode(codes)                       # [n_rows][d_out]
    z = sae.probe(x, [3, 5])                        # [n_rows][2], no encode needed
    plan = libsae.Plan([libsae.Edit.set(4.0, sae=sae, feature=3)])
    plan.apply(x)                                   # in place
    catalog = libsae.Catalog("gemma.features")      # what the features stand for
    catalog.search("bridge")

The C library is loaded when this package is imported; `libsae.library` says from where.
"""

from __future__ import annotations

from ._lib import VERSION as _VERSION
from ._lib import dotted as _dotted
from ._lib import path as library
from .catalog import About, Catalog, Example, Feature, Token
from .codes import Codes
from .env import Env, isas
from .errors import (
    ArgError,
    BusyError,
    CapacityError,
    FormatError,
    HostError,
    IoError,
    NoMemError,
    NotFoundError,
    SaeError,
    ShapeError,
    UnsupportedError,
    VersionError,
)
from .gemm import Gemm, has_blis
from .hub import from_pretrained, list_pretrained, pull
from .model import Info, Measure, Memory, Neighbors, Sae, from_weights, open
from .plan import Edit, Plan

__version__ = _dotted(_VERSION)

__all__ = [
    "About",
    "ArgError",
    "BusyError",
    "CapacityError",
    "Catalog",
    "Codes",
    "Edit",
    "Env",
    "Example",
    "Feature",
    "FormatError",
    "Gemm",
    "HostError",
    "Info",
    "IoError",
    "Measure",
    "Memory",
    "Neighbors",
    "NoMemError",
    "NotFoundError",
    "Plan",
    "Sae",
    "SaeError",
    "ShapeError",
    "Token",
    "UnsupportedError",
    "VersionError",
    "from_pretrained",
    "from_weights",
    "has_blis",
    "isas",
    "library",
    "list_pretrained",
    "open",
    "pull",
]
