"""Open OME-Zarr at an address: https://, or s3:// for Amazon S3 and servers that are compatible with it."""

from __future__ import annotations

import importlib.util
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    from zarr.storage import ObjectStore

#: An address; `Path` keeps only one of the slashes.
_ADDRESS = re.compile(r"(?:https?|s3|gs|az|ftp|file):/", re.IGNORECASE)
_READABLE = re.compile(r"(?:https?|s3)://[^/]", re.IGNORECASE)
_TRIES = 5


def is_address(path: str | Path) -> bool:
    """Return whether a path is an address such as `https://server/a.zarr`.

    Parameters
    ----------
    path : str or Path
        Path or address.

    Returns
    -------
    bool
        Whether it begins with the name of a protocol.

    Examples
    --------
    >>> is_address("https://server/a.zarr"), is_address("images/a.zarr")
    (True, False)
    """
    return _ADDRESS.match(str(path)) is not None


def require_local(path: str | Path) -> None:
    """Raise `InputError` if a path contains an address.

    Parameters
    ----------
    path : str or Path
        Path, such as one of a table of volumes after `data_dir`.

    Raises
    ------
    InputError
        If it is an address; the message names the command that copies the image.
    """
    if match := re.search(rf"(?:^|/)({_ADDRESS.pattern})/*(.+)", str(path), re.IGNORECASE):
        address = _without_secrets(f"{match[1]}/{match[2]}")
        name = next((part for part in address.split("/") if part.lower().endswith(".zarr")), "image.zarr")
        raise InputError(
            f"{address}: found an address, expected a file or folder. Copy the image, then name the copy:\n"
            f"bordure export {address} {name} --to ome-zarr"
        )


def require_plain(address: str | Path) -> None:
    """Raise `InputError` if an address has a password or a `?`, because results state where images come from.

    Parameters
    ----------
    address : str
        Address.

    Raises
    ------
    InputError
        If it is not plain. The message does not contain what follows `?`, nor user and password.
    """
    if (public := _without_secrets(str(address))) != str(address):
        raise InputError(
            f"{public}: found an address with a password or a `?`, expected one without, because results "
            "state where images come from. Download the folder. For S3, set the environment variables of "
            "Amazon."
        )


def _without_secrets(address: str) -> str:
    """Return an address without user, password and what follows `?`."""
    return re.sub(r"(//)[^/@]*@", r"\1", address).partition("?")[0]


def open_store(address: str) -> ObjectStore:
    """Return the store of an OME-Zarr folder at an address.

    Parameters
    ----------
    address : str
        Address of the folder, `https://server/a.zarr` or `s3://bucket/a.zarr`. For S3, the environment
        variables of Amazon state key, region and server, such as `AWS_ENDPOINT`; data are public if no key
        is stated.

    Returns
    -------
    zarr.storage.ObjectStore
        Store that can only be read.

    Raises
    ------
    InputError
        If the protocol is another one, or the package obstore is missing.
    """
    if not _READABLE.match(address):
        raise InputError(f"{address}: expected an address with https:// or s3://. Download the folder.")
    if not importlib.util.find_spec("obstore"):
        raise InputError(f"{address}: addresses need a further package. Type `pip install 'bordure[zarr]'`.")
    from obstore.store import HTTPStore, S3Store
    from zarr.storage import ObjectStore

    options: dict[str, Any] = {
        "client_options": {"allow_http": True, "timeout": "60s"},
        "retry_config": {"max_retries": _TRIES, "retry_timeout": timedelta(seconds=60)},
    }
    if address.lower().startswith("s3"):
        unsigned = "AWS_ACCESS_KEY_ID" not in os.environ
        return ObjectStore(S3Store.from_url(address, skip_signature=unsigned, **options), read_only=True)
    return ObjectStore(HTTPStore.from_url(address, **options), read_only=True)
