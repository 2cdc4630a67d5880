"""Segment images with a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np

from pipeline_lib.api.arrays import Image, channels_of, files
from pipeline_lib.api.segmenting import THREADS, as_options, channels_to_read, find_boxes, has_masks
from pipeline_lib.instances.methods import described
from pipeline_lib.kernels.threads import cores
from pipeline_lib.networks.modelfile import application, describe, members
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import show_unless_set_up

if TYPE_CHECKING:
    import pandas as pd

PixelSize: TypeAlias = float | tuple[float, float]
"""Side of a square pixel, or height and width (um)."""

# Dataset and prediction of an image, and the post-processing of the model
_FILES = ("image.h5", "prediction.h5", "postprocessing.json")


class Model:
    """A trained model with the threshold and post-processing that were chosen on its validation images.

    Parameters
    ----------
    path : str or Path
        `model.pt` of a complete run of the workflow, or of `train`.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device that computes. "auto" uses a GPU if there is one.
    memory_gb : float, default 8.0
        Memory that may be used on the CPU (GB). It limits the size of the tiles.

    Attributes
    ----------
    path : Path
        The file.
    channels : int
        Number of channels of its images.
    threshold : float
        Cell probability above which a pixel is inside a cell; score above which a box is an object.
    detects : bool
        Whether it finds boxes (`detect`).
    segments : bool
        Whether it finds labels (`predict`). Detectors with masks do both.
    members : int
        Number of networks: 1, or those of an ensemble, whose mean is predicted.
    scores : dict
        Mean scores of the images of each split: `scores["validation"]["seg"]`.

    Raises
    ------
    InputError
        If the file is missing, damaged or that of an unfinished run.
    """

    def __init__(self, path: str | Path, *, device: str = "auto", memory_gb: float = 8.0) -> None:
        self.path, self.device, self.memory_gb = Path(path), device, memory_gb
        self._described = describe(path)
        self.detects = self._described.get("task") == "detection"
        self.segments = not self.detects or has_masks(self._described)
        self._application = application(self._described, path)
        self.members = members(self._described)
        self.channels = len(self._described["normalisation"]["scale"])
        self.threshold: float = self._application["postprocessing"]["threshold"]
        self.scores: dict[str, dict[str, float]] = self._application.get("scores", {})

    def __repr__(self) -> str:
        """Return the path, the network, and what was measured on the validation images."""
        chosen = self._application["postprocessing"]
        score = self.scores.get("validation", {}).get(chosen["criterion"])
        scored = "" if score is None else f", validation {chosen['criterion']} {score:.4f}"
        channels = "" if self.channels == 1 else f", {self.channels} channels"
        name = self._described["name"] + (f", mean of {self.members}" if self.members > 1 else "")
        return f"<Model {self.path}: {name}{channels}, {described(chosen)}{scored}>"

    @overload
    def predict(
        self,
        image: Image,
        *,
        return_probability: Literal[False] = ...,
        channels: Sequence[int | str] | None = ...,
        scale: float | None = ...,
        offset: float | None = ...,
        pixel_size: PixelSize | None = ...,
        match_pixel_size: bool = ...,
    ) -> np.ndarray: ...

    @overload
    def predict(
        self,
        image: Image,
        *,
        return_probability: Literal[True],
        channels: Sequence[int | str] | None = ...,
        scale: float | None = ...,
        offset: float | None = ...,
        pixel_size: PixelSize | None = ...,
        match_pixel_size: bool = ...,
    ) -> tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self,
        image: Image,
        *,
        return_probability: bool = False,
        channels: Sequence[int | str] | None = None,
        scale: float | None = None,
        offset: float | None = None,
        pixel_size: PixelSize | None = None,
        match_pixel_size: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Segment an image.

        The result is that of `bordure predict` for a single image.

        Parameters
        ----------
        image : (y, x), (z, y, x) or (c, z, y, x) array_like, str or Path
            Image of the type and gray scale of the training images.
        return_probability : bool, default False
            Whether to return the cell probability, too. A detector does not have it.
        channels : sequence of (int or str), optional
            Channels to read, by number or name. By default those of the training.
        scale, offset : float, optional
            To convert another gray scale: (gray level - `offset`) * `scale`.
        pixel_size : float or (float, float), optional
            Side of a pixel, or height and width (um). By default as the file states.
        match_pixel_size : bool, default False
            Whether the image is resampled to the pixel size of the training images for the network.

        Returns
        -------
        labels : (z, y, x) array, uint32
            Cells, numbered 1..n through all sections; 0 = background. (y, x) for an array (y, x).
        probability : array of the same shape, float32
            Probability that a pixel is inside a cell, only if `return_probability`.

        Raises
        ------
        InputError
            If the model finds boxes without masks, or the image cannot be read, or has another type, gray
            scale, number of channels or axes.
        """
        from pipeline_lib import layout
        from pipeline_lib.stages.masks import predict_masks
        from pipeline_lib.stages.segmentation import segment

        if not self.segments:
            raise InputError(f"{self.path}: finds boxes, not labels. Write `model.detect(image)`.")
        if self.detects and return_probability:
            raise InputError(
                f"{self.path}: labels are made from the masks of boxes, without a cell probability. Leave "
                "out `return_probability`."
            )
        settings = channels, scale, offset, pixel_size, match_pixel_size
        with self._predicted(image, *settings) as folder:
            dataset, prediction, chosen = (folder / name for name in _FILES)
            output = folder / "labels.h5"
            if self.detects:
                find_boxes(dataset, prediction, chosen, folder / "found.h5")
                predict_masks(
                    dataset,
                    self.path,
                    folder / "found.h5",
                    chosen,
                    output,
                    device=self.device,
                    threads=min(cores(), THREADS),
                )
            else:
                segment(prediction, chosen, output, memory_gb=self.memory_gb)
            kept = 0 if not isinstance(image, str | Path) and np.ndim(image) == 2 else slice(None)
            with layout.require(folder / "labels.h5", layout.LABELS) as file:
                labels: np.ndarray = file[layout.LABELS.name][kept]
            if not return_probability:
                return labels
            with layout.require(prediction, layout.CELL_PROBABILITY) as file:
                return labels, file[layout.CELL_PROBABILITY.name][kept]

    def detect(
        self,
        image: Image,
        *,
        channels: Sequence[int | str] | None = None,
        scale: float | None = None,
        offset: float | None = None,
        pixel_size: PixelSize | None = None,
        match_pixel_size: bool = False,
    ) -> pd.DataFrame:
        """Find the objects of an image as boxes.

        The result is that of `bordure predict` for a single image.

        Parameters
        ----------
        image : (y, x), (z, y, x) or (c, z, y, x) array_like, str or Path
            Image of the type and gray scale of the training images.
        channels : sequence of (int or str), optional
            Channels to read, by number or name. By default those of the training.
        scale, offset : float, optional
            To convert another gray scale: (gray level - `offset`) * `scale`.
        pixel_size : float or (float, float), optional
            Side of a pixel, or height and width (um). By default as the file states.
        match_pixel_size : bool, default False
            Whether the image is resampled to the pixel size of the training images for the network.

        Returns
        -------
        pandas.DataFrame
            One row for each object whose score reaches the threshold, with the columns `section` (from 0),
            `class`, `x0`, `y0`, `x1`, `y1` (edges of the box, px), `score`, `centre_x` and `centre_y` (px).

        Raises
        ------
        InputError
            If the model finds labels, or the image cannot be read, or has another type, gray scale, number of
            channels or axes.
        """
        import pandas as pd

        from pipeline_lib.imageio.boxes import EXPORTS
        from pipeline_lib.stages.detection import export_detections

        if not self.detects:
            raise InputError(f"{self.path}: finds labels, not boxes. Write `model.predict(image)`.")
        settings = channels, scale, offset, pixel_size, match_pixel_size
        with self._predicted(image, *settings) as folder:
            dataset, prediction, chosen = (folder / name for name in _FILES)
            shape = find_boxes(dataset, prediction, chosen, folder / "found.h5")
            results = {kind: folder / end for kind, end in EXPORTS.items()}
            export_detections(folder / "found.h5", chosen, **results, volume="image", shape=shape)
            # a class may be called NA
            table = pd.read_csv(
                results["table"],
                dtype={"class": str},
                keep_default_na=False,
                float_precision="round_trip",
            )
        return table.drop(columns="volume")

    @contextmanager
    def _predicted(
        self,
        image: Image,
        channels: Sequence[int | str] | None,
        scale: float | None,
        offset: float | None,
        pixel_size: PixelSize | None,
        match_pixel_size: bool,
    ) -> Iterator[Path]:
        """Apply the network to an image.

        Yields a temporary folder with the `_FILES`.
        """
        from pipeline_lib.stages.dataset import build_dataset
        from pipeline_lib.stages.prediction import predict

        show_unless_set_up()
        with files() as written:
            folder = written.folder
            source = written.path(image, "image")
            found = channels_of(image)
            if channels is None and found not in (None, self.channels):
                axes = "(y, x) or (z, y, x)" if self.channels == 1 else f"({self.channels}, z, y, x)"
                raise InputError(
                    f"image: found {_channels(found)}, but {self.path} was trained on "
                    f"{_channels(self.channels)}. Expected an array {axes}, or `channels` "
                    "to read."
                )
            with as_options(source, folder / "image.h5"):
                build_dataset(
                    source,
                    None,
                    folder / "image.h5",
                    channels=channels_to_read(channels or found, self._described, self.path),
                    scale=scale,
                    offset=offset,
                    pixel_size=pixel_size,
                )
                predict(
                    folder / "image.h5",
                    self.path,
                    folder / "prediction.h5",
                    average_orientations=self._application["average_orientations"],
                    match_pixel_size=match_pixel_size,
                    device=self.device,
                    memory_gb=self.memory_gb,
                    threads=min(cores(), THREADS),
                )
            write_json(folder / "postprocessing.json", self._application["postprocessing"])
            yield folder

    def predict_files(
        self,
        images: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        stack: bool = False,
        channels: Sequence[int | str] | None = None,
        scale: float | None = None,
        offset: float | None = None,
        pixel_size: PixelSize | None = None,
        match_pixel_size: bool = False,
        at_a_time: int | None = None,
    ) -> pd.DataFrame:
        """Segment files of images, as `bordure predict` does, and write the results.

        For each image `NAME_labels.tif`, `NAME_cell_probability.tif` and `NAME_cells.csv` are written, with
        an ensemble `NAME_disagreement.tif`, with a detector `NAME_detections.csv` and others, and
        `summary.csv` for all. An image that cannot be used
        does not stop the others.

        Parameters
        ----------
        images : str or Path, or a sequence of these
            Image files, stacks or `file.h5:/dataset`.
        out : str or Path
            Folder to write to.
        stack : bool, default False
            Whether a folder is one stack of its files.
        channels : sequence of (int or str), optional
            Channels to read, by number or name. By default those of the training.
        scale, offset : float, optional
            To convert another gray scale: (gray level - `offset`) * `scale`.
        pixel_size : float or (float, float), optional
            Side of a pixel, or height and width (um). By default as the files state.
        match_pixel_size : bool, default False
            Whether images are resampled to the pixel size of the training images for the network.
        at_a_time : int, optional
            Number of images at a time. By default what the machine allows.

        Returns
        -------
        pandas.DataFrame
            The summary: columns `image`, `cells`, `labels` (empty for a detector), `table` and `error`.

        Raises
        ------
        InputError
            If the names of two images are equal, or a folder is given without `stack`.
        """
        from pipeline_lib.api.segmenting import Options, read_summary, segment_images

        show_unless_set_up()
        options = Options(
            self.path,
            Path(out),
            channels=channels,
            scale=scale,
            offset=offset,
            pixel_size=pixel_size,
            match_pixel_size=match_pixel_size,
            device=self.device,
            at_a_time=at_a_time,
            memory=self.memory_gb,
        )
        paths = [images] if isinstance(images, str | Path) else images
        segment_images([Path(path) for path in paths], options, stack=stack)
        return read_summary(Path(out, "summary.csv"))


def load(path: str | Path, *, device: str = "auto", memory_gb: float = 8.0) -> Model:
    """Read a trained model.

    Parameters
    ----------
    path : str or Path
        `model.pt` of a complete run of the workflow, or of `train`.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device that computes.
    memory_gb : float, default 8.0
        Memory that may be used on the CPU (GB).

    Returns
    -------
    Model
        The model.

    Raises
    ------
    InputError
        If the file is missing, damaged or that of an unfinished run.
    """
    return Model(path, device=device, memory_gb=memory_gb)


def _channels(number: int | None) -> str:
    return "1 channel" if number == 1 else f"{number} channels"
