"""Layer stage: prepare the sections of a volume for the viewer of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from pipeline_lib import layout, provenance
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.figures.colouring import Scale, coloured, raw_picture
from pipeline_lib.figures.layers import cells_uri, codes_uri, gray_if_equal, picture_uri
from pipeline_lib.figures.palette import CAUSE_COLOURS, HATCH, class_colours
from pipeline_lib.figures.parts import numbered
from pipeline_lib.figures.sheet import colours_of
from pipeline_lib.figures.shown import (
    REPORT_PIXELS,
    choose_sections,
    describe_part,
    share_pixels,
    shown_part,
    write_layers,
)
from pipeline_lib.instances.classes import ClassMap, classes_of_cells
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.kernels.blocks import Block, with_halo
from pipeline_lib.kernels.sections import frame, ignored_pixels, without
from pipeline_lib.metrics import Cause, section_causes
from pipeline_lib.metrics.causes import CellError, Links
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.scores import read_scores

#: Cells are compared and measured in the part that is shown and this far around it (px), so that those at its
#: edge are complete. With the largest part, 2048 x 2048 px are in memory, however large the section.
MARGIN = 512
#: Measurements of cells that the viewer shows, as `instances.measurement.measure_cells` names them.
MEASURED = (
    "label",
    "area",
    "area_um2",
    "equivalent_diameter_area",
    "equivalent_diameter_area_um",
    "intensity_mean",
    "probability_mean",
    "disagreement_mean",
    "class",
    "touches_edge",
)


def pixels_to_show(volumes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return how many pixels of each volume the report shows.

    Parameters
    ----------
    volumes : sequence of dict
        The volumes of the report: `dataset`, the HDF5 file, and `split`.

    Returns
    -------
    list of int
        Number of pixels of each (`figures.shown.share_pixels`).

    Raises
    ------
    InputError
        If a file cannot be read or lacks `raw`.
    """
    shapes = []
    for own in volumes:
        with layout.require(own["dataset"], layout.RAW) as data:
            shapes.append(data[layout.RAW.name].shape[1:])
    return share_pixels(shapes, [own["split"] != "predict" for own in volumes], REPORT_PIXELS)


def prepare_layers(
    dataset: str | Path,
    weight_map: str | Path | None,
    prediction: str | Path,
    segmentation: str | Path,
    causes: str | Path | None,
    output: str | Path,
    *,
    volume: str,
    split: str,
    network: str,
    pixels: int,
) -> None:
    """Write the layers of some sections of a volume, their cells and their errors (JSON).

    A layer is a small picture: raw image, cells annotated and found, errors, cell probability and, where they
    exist, weight map, classes, disagreement, and pixels that are not annotated. Large sections show only
    their middle. Cells that continue far outside of it are neither compared nor measured. If there are many
    sections, those with the largest errors are shown, and others at even distances.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume: `raw` and, if it is annotated, `labels`, `separation_border` and `ignore`.
    weight_map : str or Path or None
        HDF5 file with the `weight_map`. None if the volume has none.
    prediction : str or Path
        HDF5 file with the `cell_probability`.
    segmentation : str or Path
        HDF5 file with the predicted `labels`.
    causes : str or Path or None
        Table of the causes of errors (CSV) of the evaluation stage, by which sections are chosen. None if the
        volume is not scored.
    output : str or Path
        JSON file to write.
    volume, split, network : str
        Name and split of the volume, and name of the model.
    pixels : int
        Number of pixels to show, which limits the size of the report. One section is always shown.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made, or if shapes differ.
    """
    weight_file: AbstractContextManager[Any] = (
        layout.require(weight_map, layout.WEIGHT_MAP) if weight_map else nullcontext({})
    )
    optional = [path for path in (weight_map, causes) if path]
    inputs = [dataset, prediction, segmentation, *optional]
    names = {"volume": volume, "split": split, "network": network}
    with (
        provenance.making("prepare_layers", [output], inputs, **names, pixels=pixels) as record,
        layout.require(dataset, layout.RAW) as data,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        layout.require(segmentation, layout.LABELS) as segmented,
        weight_file as weighted,
    ):
        found, expected = segmented[layout.LABELS.name], data[layout.RAW.name].shape[1:]
        for path, array in ((segmentation, found), (prediction, predicted[layout.CELL_PROBABILITY.name])):
            if array.shape != expected:
                raise InputError(
                    f"{path}: shape {array.shape}, but {dataset} has {expected}. Delete {path} and run the "
                    "workflow again."
                )
        window, number = shown_part(expected, pixels)
        shown = choose_sections(len(found), number, _worst(causes, volume, network))
        rows, columns = (
            with_halo(edge, size, MARGIN) for edge, size in zip(window, expected[1:], strict=True)
        )
        part = Block(read=(rows[0], columns[0]), crop=(rows[1], columns[1]), write=window)
        view = _View(data, predicted, found, weighted.get(layout.WEIGHT_MAP.name), part)
        scales = view.scales(shown)
        classes = layout.classes_of(predicted[layout.CLASS_PROBABILITY.name])[0] if view.has_classes else []
        described: Json = {
            **names,
            "noun": "cell",
            **describe_part(data[layout.RAW.name].shape, layout.pixel_size(data), window),
            "annotated": view.annotated,
            "scales": {
                name: asdict(scale) | {"colours": colours_of(scale)} for name, scale in scales.items()
            },
            "classes": [*zip(classes, class_colours(len(classes)), strict=True)] if classes else [],
            "shown": [view.section(z, scales) for z in shown],
            "diameters": _diameters(data, found),
            "provenance": record,
        }
        write_layers(described, output)


def _worst(causes: str | Path | None, volume: str, network: str) -> list[int]:
    """Return the sections that contain the largest error of a cause, those with most wrong pixels first."""
    if causes is None:
        return []
    table = read_scores(causes)
    table = table[(table.network == network) & (table.volume == volume) & table.section.notna()]
    return table.sort_values("pixels", ascending=False, kind="stable").section.astype(int).tolist()


class _Cells(NamedTuple):
    """The cells of a section, annotated or found.

    Parameters
    ----------
    labels : (n,) array of int64
        Labels of the cells in the part that is read.
    numbers : (y, x) array of int32
        Their numbers 1..n in this part, 0 = background.
    complete : (n,) array of bool
        Which of them are nowhere outside of it.
    shown : (m,) array of int64
        Places in `labels` of the cells in the window.
    pixels : (h, w) array of int32
        Their numbers 1..m in the window.
    """

    labels: np.ndarray
    numbers: np.ndarray
    complete: np.ndarray
    shown: np.ndarray
    pixels: np.ndarray

    def in_window(self, values: np.ndarray, known: np.ndarray) -> list[Any]:
        """Return values (n,) of the cells in the window; None where they are not known."""
        own = zip(values[self.shown].tolist(), known[self.shown].tolist(), strict=True)
        return [value if certain else None for value, certain in own]


class _Compared(NamedTuple):
    """Columns of the cells found, further entries and layers of a section, and colours of these cells."""

    of_found: dict[str, list[Any]]
    entries: Json
    layers: dict[str, str]
    tints: np.ndarray


@dataclass(frozen=True)
class _View:
    """A part of the sections of a volume, with all of its arrays. Its middle is the window that is shown."""

    data: h5py.File
    predicted: h5py.File
    found: Stored
    weights: Stored | None
    part: Block

    @property
    def annotated(self) -> bool:
        """Whether the volume has an annotation."""
        return layout.LABELS.name in self.data

    @property
    def has_classes(self) -> bool:
        """Whether there are other classes than background and cell."""
        return layout.CLASS_PROBABILITY.name in self.predicted

    def scales(self, sections: Sequence[int]) -> dict[str, Scale]:
        """Return the colour scale of each layer of numbers, the same for all sections."""
        found = {"probability": Scale("gray", 0, 1, "cell probability")}
        if self.weights is not None:
            highest = max(float(self.weights[z, *self.part.write].max()) for z in sections)
            found["weight_map"] = Scale("viridis", 0, highest, "loss weight")
        if layout.DISAGREEMENT.name in self.predicted:
            found["disagreement"] = Scale("magma", 0, 0.5, "standard deviation of the members")
        return found

    def section(self, z: int, scales: Mapping[str, Scale]) -> Json:
        """Return layers, cells and errors of a section."""
        raw = self.data[layout.RAW.name][:, z, *self.part.read]
        probability = self.predicted[layout.CELL_PROBABILITY.name][z, *self.part.read]
        numbers = {
            "probability": probability,
            "weight_map": None if self.weights is None else self.weights[z, *self.part.read],
            "disagreement": self._optional(self.predicted, layout.DISAGREEMENT, z),
        }
        layers = {"raw": picture_uri(gray_if_equal(raw_picture(raw[:, *self.part.crop])))}
        layers |= {
            name: picture_uri(gray_if_equal(coloured(values[self.part.crop], scales[name])))
            for name, values in numbers.items()
            if values is not None
        }
        layers |= self._classes(z)
        found = self._cells(self.found, z)
        cells = _columns(self._measured(z, found, raw, probability, numbers["disagreement"]))
        section: Json = {"z": z}
        tints = np.arange(len(found.shown))
        if self.annotated:
            compared = self._compared(z, raw, found)
            cells |= compared.of_found
            section |= compared.entries
            layers |= compared.layers
            tints = compared.tints
        layers["cells"], section["cells_bits"] = cells_uri(found.pixels, tints)
        return section | {"found_cells": cells, "layers": layers}

    def _cells(self, array: Stored, z: int, ignore: Stored | None = None) -> _Cells:
        """Return the cells of a section, without their pixels that are ignored."""
        section = without(array[z, *self.part.read], ignored_pixels(ignore, z, self.part.read))
        labels, numbers = numbered(section)
        size = array.shape[1:]
        rows, columns = self.part.read
        cut = rows.start > 0, rows.stop < size[0], columns.start > 0, columns.stop < size[1]
        complete = ~np.isin(labels, frame(section, cut))
        if any(cut):  # also a cell in several places can be outside
            inside = np.bincount(numbers.ravel(), minlength=len(labels) + 1)[1:]
            whole = objects_of(array, z, ignore)
            complete &= inside == whole.pixels[np.searchsorted(whole.label, labels)]
        shown, pixels = numbered(numbers[self.part.crop])
        return _Cells(labels, numbers, complete, shown - 1, pixels)

    def _compared(self, z: int, raw: np.ndarray, found: _Cells) -> _Compared:
        """Compare the cells found with the annotated ones."""
        ignore = self.data.get(layout.IGNORE.name)
        ignored = ignored_pixels(ignore, z, self.part.read)
        true = self._cells(self.data[layout.LABELS.name], z, ignore)
        causes = section_causes(
            raw,
            true.numbers,
            found.numbers,
            border=self.data[layout.SEPARATION_BORDER.name][z, *self.part.read],
            ignored=ignored,
            incomplete=(np.flatnonzero(~true.complete) + 1, np.flatnonzero(~found.complete) + 1),
        )
        of_true, of_found = (
            _of_all(links, len(own.labels))
            for links, own in ((causes.true_links, true), (causes.found_links, found))
        )
        crop = self.part.crop
        uri, bits = cells_uri(true.pixels, np.arange(len(true.shown)))
        areas, own_areas = (
            np.bincount(without(own.numbers, ignored).ravel(), minlength=len(own.labels) + 1)
            for own in (true, found)
        )
        matched = np.append(0, of_found.match)[found.numbers]
        shared = np.bincount(
            found.numbers[(matched > 0) & (matched == true.numbers)], minlength=len(found.labels) + 1
        )
        union = own_areas[1:] + areas[of_found.match] - shared[1:]
        overlap = np.where(of_found.match > 0, shared[1:] / np.maximum(union, 1), np.nan)
        names, true_names = np.append(0, found.labels), np.append(0, true.labels)
        partner = np.where(of_found.match > 0, of_found.match, of_found.part_of)[found.shown] - 1
        return _Compared(
            of_found={
                "iou": [_rounded(value) for value in found.in_window(overlap, of_found.known)],
                "match": found.in_window(true_names[of_found.match], of_found.known),
                "part_of": found.in_window(true_names[of_found.part_of], of_found.known),
            },
            entries={
                "annotation_bits": bits,
                "annotated_cells": {
                    "label": true.labels[true.shown].tolist(),
                    "area": true.in_window(areas[1:], true.complete),
                    "match": true.in_window(names[of_true.match], of_true.known),
                    "part_of": true.in_window(names[of_true.part_of], of_true.known),
                },
                "errors": self._errors(causes.errors),
            },
            layers={
                "annotation": uri,
                **_error_layers(causes.codes[crop], None if ignored is None else ignored[crop]),
            },
            # a found cell has the colour of the annotated one to which it belongs
            tints=np.where(
                np.isin(partner, true.shown),
                np.searchsorted(true.shown, partner),
                np.arange(len(partner)) + len(true.shown),
            ),
        )

    def _errors(self, errors: Sequence[CellError]) -> list[Json]:
        """Return the errors whose place is in the window, the largest first. Boxes end at its edge."""
        (top, bottom), (left, right) = ((edge.start, edge.stop) for edge in self.part.crop)
        own = [error for error in errors if top <= error.y < bottom and left <= error.x < right]
        return [
            {
                "cause": error.cause.name.lower(),
                "pixels": error.pixels,
                "y": error.y - top,
                "x": error.x - left,
                "box": [
                    max(error.box[0], top) - top,
                    max(error.box[1], left) - left,
                    min(error.box[2], bottom) - top,
                    min(error.box[3], right) - left,
                ],
            }
            for error in sorted(own, key=lambda error: -error.pixels)
        ]

    def _optional(self, file: h5py.File, array: layout.Array, z: int) -> np.ndarray | None:
        return file[array.name][z, *self.part.read] if array.name in file else None

    def _classes(self, z: int) -> dict[str, str]:
        """Return the layers of the classes annotated and found, if there are other classes than cell."""
        if not self.has_classes:
            return {}
        probability = self.predicted[layout.CLASS_PROBABILITY.name]
        names, _ = layout.classes_of(probability)
        colours = {number: colour for number, colour in enumerate(class_colours(len(names))) if number}
        layers = {"classes_found": codes_uri(ClassMap(probability)[z, *self.part.write], colours)}
        target = self._optional(self.data, layout.TARGET, z)
        if target is None:
            return layers
        return {"classes_annotated": codes_uri(target[self.part.crop], colours)} | layers

    def _measured(
        self,
        z: int,
        found: _Cells,
        raw: np.ndarray,
        probability: np.ndarray,
        disagreement: np.ndarray | None,
    ) -> pd.DataFrame:
        """Return the measurements of the cells that the viewer shows; those of incomplete cells are NaN."""
        measured = np.zeros(len(found.labels) + 1, bool)
        measured[found.shown + 1] = found.complete[found.shown]
        cells = measure_cells(
            np.where(measured[found.numbers], found.numbers, 0)[None],
            intensity=raw[:, None],
            probability=probability[None],
            disagreement=None if disagreement is None else disagreement[None],
            class_probability=(
                self.predicted[layout.CLASS_PROBABILITY.name][:, z, *self.part.read][:, None]
                if self.has_classes
                else None
            ),
            classes=classes_of_cells(self.predicted),
            pixel_size=layout.pixel_size(self.data),
        )
        cells = cells.set_index("label").reindex(found.shown + 1).reset_index()
        cells["label"] = found.labels[found.shown]
        return cells[[column for name in MEASURED for column in cells if column.partition("-")[0] == name]]


def _of_all(links: Links, number: int) -> Links:
    """Return links with a row for each of the cells 1..`number`: some may only have ignored pixels."""
    match, part_of, known = np.zeros(number, np.int64), np.zeros(number, np.int64), np.ones(number, bool)
    for values, own in ((match, links.match), (part_of, links.part_of), (known, links.known)):
        values[links.label - 1] = own
    return Links(np.arange(1, number + 1), match, part_of, known)


def _error_layers(codes: np.ndarray, ignored: np.ndarray | None) -> dict[str, str]:
    """Return the layers of errors of cells, of wrong outlines, and of pixels that are not annotated."""
    kinds = [*CAUSE_COLOURS]
    table = np.array([0, *(kinds.index(cause.kind) + 1 for cause in Cause)], np.uint8)
    colours = dict(enumerate(CAUSE_COLOURS.values(), 1))
    outline = {kinds.index("outline") + 1: colours.pop(kinds.index("outline") + 1)}
    layers = {"errors": codes_uri(table[codes], colours), "outlines": codes_uri(table[codes], outline)}
    if ignored is not None and ignored.any():
        rows, columns = np.ogrid[: ignored.shape[0], : ignored.shape[1]]
        stripes = ignored & ((rows + columns) % 8 < 2)
        layers["not_annotated"] = codes_uri(stripes.astype(np.uint8), {1: HATCH})
    return layers


def _columns(cells: pd.DataFrame) -> dict[str, list[Any]]:
    """Return a table as lists of numbers and text for JSON, rounded; numbers that are not known are None."""
    return {name: [*map(_rounded, column)] for name, column in cells.to_dict("list").items()}


def _rounded(value: Any) -> Any:
    """Round a number to 4 significant digits, or from 1000 on to an integer; None if it is not finite."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))


def _diameters(data: h5py.File, found: Stored) -> dict[str, list[int]]:
    """Return how many cells annotated and found have a diameter of 0, 1, 2 ... px, over all sections.

    The diameter is that of a disc with the area of the cell. Pixels that are not annotated are left out.
    """
    ignore = data.get(layout.IGNORE.name)
    arrays = {"found": found}
    if layout.LABELS.name in data:
        arrays["annotated"] = data[layout.LABELS.name]
    return {name: _histogram(array, ignore) for name, array in arrays.items()}


def _histogram(labels: Stored, ignore: Stored | None) -> list[int]:
    total = np.zeros(0, np.int64)
    for z in range(labels.shape[0]):
        diameters = np.sqrt(4 * objects_of(labels, z, ignore).pixels / np.pi).astype(np.int64)
        counts = np.bincount(diameters, minlength=len(total))
        counts[: len(total)] += total
        total = counts
    return total.tolist()
