"""Record how each file was made (`making`), and trace a file back to the raw images (`chain`)."""

from pipeline_lib.provenance.chain import Link, chain, describe
from pipeline_lib.provenance.record import (
    FOLDER,
    digest,
    embedded_record,
    find_record,
    is_result,
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
    "is_result",
    "making",
    "record_path",
    "require_unchanged",
    "version",
]
