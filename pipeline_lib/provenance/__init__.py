"""Provenance: a record of what made each file (`making`), and the chain back to the raw images (`chain`)."""

from pipeline_lib.provenance.chain import Link, chain, describe
from pipeline_lib.provenance.record import (
    FOLDER,
    digest,
    embedded_record,
    find_record,
    making,
    record_path,
    require_unchanged,
    version,
)

__all__ = [
    "FOLDER",
    "Link",
    "chain",
    "describe",
    "digest",
    "embedded_record",
    "find_record",
    "making",
    "record_path",
    "require_unchanged",
    "version",
]
