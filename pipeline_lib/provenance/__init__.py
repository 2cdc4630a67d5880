"""Provenance: a record of what made each file (`making`), and the chain back to the raw images (`chain`)."""

from pipeline_lib.provenance.chain import Link, chain, describe
from pipeline_lib.provenance.record import (
    FOLDER,
    beside,
    digest,
    inside,
    making,
    of,
    require_unchanged,
    version,
)

__all__ = [
    "FOLDER",
    "Link",
    "beside",
    "chain",
    "describe",
    "digest",
    "inside",
    "making",
    "of",
    "require_unchanged",
    "version",
]
