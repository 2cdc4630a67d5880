"""Hand arrays to stages, which read files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import yaml

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

Image: TypeAlias = npt.ArrayLike | str | Path
"""An array or the path of an image."""

AXES = {2: "yx", 3: "zyx", 4: "czyx"}  # by number of dimensions
_MOST_COLOURS = 4  # length of a last axis that is taken for colours


class Files:
    """Files that stand for arrays while stages run.

    Parameters
    ----------
    folder : str or Path
        Folder to write to.
    section : str, default ""
        Section of settings that are arguments of their own, see `as_arguments`.
    """

    def __init__(self, folder: str | Path, section: str = "") -> None:
        self.folder, self.section = Path(folder), section
        self.names: dict[str, str] = {}  # what messages call each file

    def path(self, image: Image, name: str, *, labels: bool = False) -> str:
        """Return the path of an image; an array is written as HDF5 first, without any change of its values.

        Parameters
        ----------
        image : array_like, str or Path
            Image or annotation.
        name : str
            What messages call it.
        labels : bool, default False
            Whether it has no axis of channels.

        Returns
        -------
        str
            Path that `imageio` reads.

        Raises
        ------
        InputError
            If the array has other axes or values that are no numbers.
        """
        if isinstance(image, str | Path):
            return str(image)
        import h5py

        array = as_image(image, name, labels=labels)
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{len(self.names)}.h5"
        with h5py.File(file, "w") as target:
            dataset = target.create_dataset("array", data=array)
            dataset.attrs["axes"] = AXES[array.ndim]
        path = f"{file}:/array"
        self.names = {path: f"`{name}`"} | self.names  # before that of the folder
        return path

    def named(self, text: str) -> str:
        """Return a message in which arrays have the names that a user knows."""
        for path, name in self.names.items():
            text = text.replace(path, name)
        return as_arguments(text, self.section)

    def rename(self, record: logging.LogRecord) -> bool:
        """Name arrays in a log line, as a filter of a logger."""
        record.msg, record.args = self.named(record.getMessage()), None
        return True


@contextmanager
def files(folder: str | Path | None = None, *, section: str = "") -> Iterator[Files]:
    """Yield a place for the files of arrays. Context manager.

    Errors and log lines name the arrays, not the files, and arguments, not settings.

    Parameters
    ----------
    folder : str or Path, optional
        Folder to write to. By default a temporary one, which is deleted at the end.
    section : str, default ""
        Section of settings that are arguments of their own, see `as_arguments`.

    Yields
    ------
    Files
        The files.
    """
    with TemporaryDirectory(prefix="bordure-") as temporary:
        written = Files(folder or temporary, section)
        written.names |= {} if folder else {f"{temporary}/": ""}
        logger.addFilter(written.rename)
        try:
            yield written
        except InputError as error:
            raise InputError(written.named(str(error))) from error
        finally:
            logger.removeFilter(written.rename)


def as_image(image: npt.ArrayLike, name: str, *, labels: bool = False) -> np.ndarray:
    """Return an array with axes that bordure knows, or raise `InputError`.

    Parameters
    ----------
    image : array_like
        Numbers.
    name : str
        What messages call it.
    labels : bool, default False
        Whether it has no axis of channels.

    Returns
    -------
    (y, x), (z, y, x) or (c, z, y, x) array
        The array, not copied if possible.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.api.arrays import as_image
    >>> as_image([[1, 2], [3, 4]], "image").shape
    (2, 2)
    >>> as_image(np.zeros((64, 64, 3)), "image")
    Traceback (most recent call last):
        ...
    pipeline_lib.runtime.errors.InputError: image: found the shape (64, 64, 3), with colours last; expected \
(y, x), (z, y, x) or (c, z, y, x). Write `numpy.moveaxis(image, -1, 0)[:, None]` for one section in colours.
    """
    try:
        array = np.asarray(image)
    except ValueError as error:  # a list whose items differ in shape
        raise InputError(f"{name}: found no array ({error}); expected one image, or a path.") from error
    expected = f"expected (y, x){' or' if labels else ','} (z, y, x){'' if labels else ' or (c, z, y, x)'}"
    if array.dtype.kind not in "buif":
        raise InputError(
            f"{name}: found the type {array.dtype}; expected an array of whole numbers, floats or bool, or a "
            "path."
        )
    if array.ndim not in AXES or (labels and array.ndim == 4) or not array.size:
        raise InputError(f"{name}: found the shape {array.shape}; {expected}.")
    if not labels and array.ndim > 2 and array.shape[-1] <= _MOST_COLOURS:
        one = "[:, None]" if array.ndim == 3 else ""
        raise InputError(
            f"{name}: found the shape {array.shape}, with colours last; {expected}. Write "
            f"`numpy.moveaxis({name}, -1, 0){one}` for {'one section' if one else 'sections'} in colours."
        )
    return array


def as_arguments(text: str, section: str = "") -> str:
    """Return a message with its settings and options written as arguments in Python.

    Parameters
    ----------
    text : str
        Message with settings as in a config file.
    section : str, default ""
        Section whose settings are arguments of their own.

    Returns
    -------
    str
        The message.

    Examples
    --------
    >>> from pipeline_lib.api.arrays import as_arguments
    >>> as_arguments("Set `dataset: {ignore: 255}`, or `training.batch: 2`.")
    "Set `dataset={'ignore': 255}`, or `training={'batch': 2}`."
    >>> as_arguments("Set `dataset: {ignore: 255}`, or add `--channels red`.", section="dataset")
    "Set `ignore=255`, or add `channels='red'`."
    >>> as_arguments("Add `--channels DAPI` or `--match-pixel-size` or `--scale FACTOR`.")
    "Add `channels='DAPI'` or `match_pixel_size` or `scale=FACTOR`."
    """

    def argument(match: re.Match[str]) -> str:
        try:
            key, value = next(iter(yaml.safe_load(match[1]).items()))
        except yaml.YAMLError:
            return match[0]
        first, *further = key.split(".")
        for name in further[::-1]:
            value = {name: value}
        if first == section:
            return f"`{', '.join(f'{name}={own!r}' for name, own in value.items())}`"
        return f"`{first}={value!r}`"

    def option(match: re.Match[str]) -> str:
        value = "" if match[2] is None else match[2].strip()
        value = f"={value if value == 'FACTOR' else repr(value)}" if value else ""  # a number to fill in
        return f"`{match[1].replace('-', '_')}{value}`"

    text = re.sub(r"`--([\w-]+)( [^`]+)?`", option, text)
    return re.sub(r"`([\w.]+: [^`]+)`", argument, text)


def channels_of(image: Image) -> int | None:
    """Return the number of channels of an array; None for a path.

    Parameters
    ----------
    image : array_like, str or Path
        Image.

    Returns
    -------
    int or None
        Number of channels.
    """
    if isinstance(image, str | Path):
        return None
    shape = np.shape(image)
    return int(shape[0]) if len(shape) == 4 else 1
