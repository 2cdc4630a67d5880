"""Post-processing: from a cell probability to instance labels.

There are two ways, which give the same labels: `instances` for one section in memory, and
`instances_by_block`, then `give_back` of each region, for volumes of any size. Jobs that share a volume use
the steps of the second separately (labelling.py).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline_lib import memory
from pipeline_lib.imageio.regions import grow
from pipeline_lib.instances.classes import Border
from pipeline_lib.instances.labelling import Labels, Read, labelled
from pipeline_lib.instances.methods import SEPARATORS, UNUSED, described, method_of
from pipeline_lib.instances.multicut import multicut
from pipeline_lib.instances.mutex_watershed import Affinities, mutex_watershed
from pipeline_lib.instances.regions import join_small
from pipeline_lib.instances.watershed import grow_seeds
from pipeline_lib.kernels.blocks import ALIGNMENT, BLOCK
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.types import Json, Stored


@dataclass(frozen=True)
class PostProcessing:
    """Settings that turn the cell probability of a model into instances.

    Instances are the 4-connected components of the pixels above the threshold in each section, without those
    that are too small. With a seed threshold, the components above it are seeds, and grow to the threshold by
    a watershed (`watershed.grow_seeds`). So an instance contains one seed. With a smallest region, instances
    are the regions of a mutex watershed of the pixels above the threshold
    (`mutex_watershed.mutex_watershed`), and smaller ones join a neighbour (`regions.join_small`). With a
    beta, instances are the pixels above the threshold in each region of a multicut (`multicut.multicut`).
    If there is a class `border`, its pixels are then given back to the nearest cell (`give_back`).

    Parameters
    ----------
    threshold : float
        Pixels belong to a cell if their cell probability is above it. At least 0 and below 1.
    minimum_size : int, default 0
        Components with fewer pixels are removed (px). The border is not counted.
    border_reach : int, default 0
        Largest distance between a pixel of the border and its cell. At most 128 px, the height of the
        smallest part of a section: only neighbouring parts exchange their border. With 0, no border is given
        back.
    seed_threshold : float, optional
        Pixels belong to a seed if their cell probability is above it. Above `threshold` and below 1. By
        default there is no watershed.
    smallest_region : int, optional
        Regions of a mutex watershed with fewer pixels join a neighbour (px). With 0, none does. By default
        there is no mutex watershed.
    multicut_beta : float, optional
        Probability from which on superpixels join, above 0 and below 1. By default there is no multicut.

    Raises
    ------
    InputError
        If a value has the wrong type or is outside its range, or if settings of several methods are given.
    """

    threshold: float
    minimum_size: int = 0
    border_reach: int = 0
    seed_threshold: float | None = None
    smallest_region: int | None = None
    multicut_beta: float | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.threshold, (int, float)) and 0 <= self.threshold < 1):
            raise InputError(
                f"`threshold`: found {self.threshold!r}, expected a number of at least 0 and below 1."
            )
        for name in ("minimum_size", "border_reach", "smallest_region"):
            value = getattr(self, name)
            if value != UNUSED.get(name, 0) and not (_is_number(value, int) and value >= 0):
                raise InputError(f"`{name}`: found {value!r}, expected an integer of at least 0.")
        if self.border_reach > ALIGNMENT:
            raise InputError(
                f"`border_reach`: found {self.border_reach}, expected at most {ALIGNMENT}. Lower "
                "`dataset.separation_border_width`."
            )
        given = [name for name in SEPARATORS.values() if getattr(self, name) is not None]
        lowest = {
            "seed_threshold": (self.threshold, f"the threshold, {self.threshold:g},"),
            "multicut_beta": (0, "0"),
        }
        for name, (low, described_low) in lowest.items():
            if (value := getattr(self, name)) is None:
                continue
            if not (_is_number(value, (int, float)) and low < value < 1):
                raise InputError(
                    f"`{name}`: found {value!r}, expected a number above {described_low} and below 1."
                )
        if len(given) > 1:
            names = " and ".join(f"`{name}`" for name in given)
            raise InputError(f"{names}: found several, expected one of them. Remove the others.")

    @property
    def method(self) -> str:
        """Way from probabilities to instances: one of `methods.METHODS`."""
        return method_of(asdict(self))

    @property
    def separator(self) -> float | None:
        """Value of the setting that decides how many cells there are; None for `components`."""
        setting = SEPARATORS.get(self.method)
        return None if setting is None else getattr(self, setting)

    @classmethod
    def read(cls, path: str | Path) -> PostProcessing:
        """Read the settings from the JSON file of the stage `choose_postprocessing`.

        Parameters
        ----------
        path : str or Path
            File to read. Other values in it are ignored.

        Returns
        -------
        PostProcessing
            The settings in the file.

        Raises
        ------
        InputError
            If the file cannot be read, or a value is missing or invalid.
        """
        content = read_json(path)
        names = [field.name for field in fields(cls)]
        if isinstance(content, dict):
            content = UNUSED | content
        for name in names:
            if not isinstance(content, dict) or name not in content:
                raise InputError(
                    f"{path}: has no `{name}`. It was written by another version of bordure; delete it and "
                    "run the workflow again."
                )
        try:
            return cls(**{name: content[name] for name in names})
        except InputError as error:
            raise InputError(
                f"{path}: {error} Correct it, or delete the file and run the workflow again."
            ) from error

    def to_dict(self) -> Json:
        """Return the settings for the JSON file.

        Returns
        -------
        dict
            The settings by name, without `border_reach` if no border is given back, and without settings of
            methods that are not used.
        """
        return {name: value for name, value in asdict(self).items() if (name, value) not in UNUSED.items()}

    def __str__(self) -> str:
        return described(asdict(self))

    def at(self, threshold: float) -> PostProcessing:
        """Return the settings with another threshold.

        Parameters
        ----------
        threshold : float
            Threshold.

        Returns
        -------
        PostProcessing
            The settings. From the seed threshold on, there are no seeds: the instances are then those that a
            watershed from seeds above `threshold` has.
        """
        seed = self.seed_threshold
        kept = seed if seed is not None and seed > threshold else None
        return replace(self, threshold=threshold, seed_threshold=kept)

    def scaled(self, pixels: float) -> PostProcessing:
        """Return the settings for an image in which `pixels` pixels have the area of one.

        Parameters
        ----------
        pixels : float
            Number of pixels that have the area of one pixel of the images for which the settings were chosen.

        Returns
        -------
        PostProcessing
            The settings in pixels of the image, rounded. `border_reach` stays at most 128 px.

        Examples
        --------
        >>> from pipeline_lib.instances.postprocessing import PostProcessing
        >>> PostProcessing(threshold=0.5, minimum_size=10).scaled(4.0).minimum_size
        40
        """
        if pixels == 1:
            return self
        reach = min(math.ceil(self.border_reach * math.sqrt(pixels)), ALIGNMENT)
        sizes = {
            name: round(size * pixels)
            for name in ("minimum_size", "smallest_region")
            if (size := getattr(self, name)) is not None
        }
        return replace(self, border_reach=reach, **sizes)

    def foreground(self, cell_probability: np.ndarray) -> np.ndarray:
        """Return which pixels belong to a cell.

        Parameters
        ----------
        cell_probability : array of float
            Cell probability of any shape, 0..1.

        Returns
        -------
        array of bool
            True where the probability is above the threshold; the comparison is in float64 (`above`).
        """
        return above(cell_probability, self.threshold)

    def read_foreground(self, cell_probability: Stored) -> Read:
        """Return a function that reads the foreground of a region from a probability map.

        Parameters
        ----------
        cell_probability : (z, y, x) array or HDF5 dataset
            Cell probability, 0..1.

        Returns
        -------
        callable
            Takes the number of a section, rows and columns (slices), and returns which pixels of the region
            belong to a cell (bool).
        """
        return lambda z, rows, columns: self.foreground(cell_probability[z, rows, columns])

    def regions(self, cell_probability: np.ndarray, affinities: Affinities | None = None) -> np.ndarray:
        """Return the instances of a section as regions of equal values, before small ones are removed.

        Parameters
        ----------
        cell_probability : (y, x) array of float
            Cell probability of a whole section, 0..1.
        affinities : Affinities, optional
            Affinities of the section. Needed for a mutex watershed.

        Returns
        -------
        (y, x) array of bool or uint32
            0 = background. Each instance is a 4-connected component of equal values.

        Raises
        ------
        InputError
            If affinities are needed and missing.
        """
        cells = self.foreground(cell_probability)
        if self.smallest_region is not None:
            if affinities is None:
                raise InputError(
                    "the post-processing is a mutex watershed (`smallest_region`), but the prediction has no "
                    "`affinities`. Train the network with `training: {affinities: true}`."
                )
            regions = equal_components(mutex_watershed(affinities, cells))
            return join_small(regions, cell_probability, self.smallest_region).view(np.uint32)
        if self.multicut_beta is not None:
            return np.where(cells, multicut(cell_probability, self.multicut_beta), 0).view(np.uint32)
        if self.seed_threshold is None:
            return cells
        seeds = above(cell_probability, self.seed_threshold)
        return grow_seeds(cell_probability, seeds, cells).view(np.uint32)

    def read_regions(self, cell_probability: Stored, affinities: Affinities | None = None) -> Read:
        """Return a function that reads the `regions` of a part of a section from a probability map.

        Parameters
        ----------
        cell_probability : (z, y, x) array or HDF5 dataset
            Cell probability, 0..1.
        affinities : Affinities, optional
            Affinities of the volume. Needed for a mutex watershed.

        Returns
        -------
        callable
            Takes the number of a section, rows and columns (slices). With all methods but `components`, it
            keeps a whole section.
        """
        if self.method == "components":
            return self.read_foreground(cell_probability)

        @lru_cache(maxsize=1)
        def of_section(z: int) -> np.ndarray:
            own = affinities[z] if affinities is not None and self.smallest_region is not None else None
            return self.regions(cell_probability[z], own)

        return lambda z, rows, columns: of_section(z)[rows, columns]

    def read_border(self, cell_probability: Stored, border: Border) -> Read:
        """Return a function that reads which pixels of a region are border, and not in a cell.

        Parameters
        ----------
        cell_probability : (z, y, x) array or HDF5 dataset
            Cell probability, 0..1.
        border : Border
            Predicted border.

        Returns
        -------
        callable
            Takes the number of a section, rows and columns (slices), and returns bool.
        """
        foreground = self.read_foreground(cell_probability)
        return lambda *region: border[region] & ~foreground(*region)


def instances(
    cell_probability: np.ndarray,
    post_processing: PostProcessing,
    components: np.ndarray | None = None,
    border: np.ndarray | None = None,
    affinities: Affinities | None = None,
) -> np.ndarray:
    """Return the instances in one section.

    Parameters
    ----------
    cell_probability : (y, x) array of float
        Cell probability of the section, 0..1.
    post_processing : PostProcessing
        Threshold, minimum size and reach of the border.
    components : (y, x) array of int32, optional
        The 4-connected components of the pixels above the threshold, if they are already known. They are not
        needed for other methods.
    border : (y, x) array of bool, optional
        Predicted border (`classes.Border`). By default there is none.
    affinities : Affinities, optional
        Affinities of the section. Needed for a mutex watershed.

    Returns
    -------
    (y, x) array of int32
        0 = background, 1..n = instances, ordered by their first pixel, with columns in the outer and rows in
        the inner loop. The border is not counted.

    Examples
    --------
    The single pixel at the upper right is smaller than the minimum size.

    >>> import numpy as np
    >>> from pipeline_lib.instances.postprocessing import PostProcessing, instances
    >>> instances(np.array([[0.9, 0.2, 0.9], [0.9, 0.2, 0.3]]), PostProcessing(threshold=0.5, minimum_size=2))
    array([[1, 0, 0],
           [1, 0, 0]], dtype=int32)
    """
    if components is None or post_processing.method != "components":
        regions = post_processing.regions(cell_probability, affinities)
        components = equal_components(regions.view(np.uint8) if regions.dtype == bool else regions)
    if post_processing.minimum_size > 1:
        kept = _without_small(components.ravel(), post_processing.minimum_size)
        components = kept.reshape(components.shape)
    if border is None or not post_processing.border_reach:
        return components
    outside = ~post_processing.foreground(cell_probability)
    return give_back(components, border & outside, post_processing.border_reach)


def give_back(labels: np.ndarray, border: np.ndarray, reach: int) -> np.ndarray:
    """Give each pixel of the border to the nearest cell that it is connected to within the border.

    If `reach` is half of its width, this undoes what `data.labels.separation_border` takes from touching
    cells. Steps between pixels count as there: also over corners.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of one section or region, 0 = background.
    border : (y, x) array of bool
        Pixels of the class `border`, where `labels` is 0.
    reach : int
        Largest distance between a pixel of the border and its cell (px).

    Returns
    -------
    (y, x) array of int
        Labels with the border. If two cells are equally near, a pixel belongs to the smaller label.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.postprocessing import give_back
    >>> give_back(np.array([[1, 0, 0, 0, 0, 2]]), np.array([[0, 1, 1, 1, 1, 0]], bool), reach=1)
    array([[1, 1, 0, 0, 2, 2]])
    """
    return grow(labels, border, reach, corners=True)


def instances_by_block(
    cell_probability: Stored,
    post_processing: PostProcessing,
    output: str | Path,
    *,
    affinities: Affinities | None = None,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> AbstractContextManager[tuple[Labels, int]]:
    """Label the instances of a volume of any size. Context manager.

    The border is not given back, because that needs the surroundings of a region (`give_back`). With all
    methods but `components`, one section at a time is in memory.

    Parameters
    ----------
    cell_probability : (z, y, x) array or HDF5 dataset
        Cell probability, 0..1.
    post_processing : PostProcessing
        Threshold and minimum size.
    output : str or Path
        File that the labels are for. A temporary file is in the same folder until the `with` statement ends.
    affinities : Affinities, optional
        Affinities of the volume. Needed for a mutex watershed.
    block : int, default 2048
        Side of the blocks that are in memory one at a time (px). It does not change the labels.
    memory_gb : float, default 8.0
        Limit for the tables of the components of one section, and for methods that need a whole one (GB).

    Returns
    -------
    context manager
        It yields the labels and their number (`Labels`, int). The labels are uint32 and those of `instances`
        in each section, but numbered through the volume and without the border.

    Raises
    ------
    InputError
        If the tables or the method need more than `memory_gb`, or there are more components than uint32 can
        number.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.instances.postprocessing import PostProcessing, instances_by_block
    >>> probability = np.array([[[0.9, 0.2, 0.9], [0.9, 0.2, 0.3]]])
    >>> with instances_by_block(probability, PostProcessing(0.5), Path("labels.h5")) as (labels, count):
    ...     labels[0, :, :], count
    (array([[1, 0, 2],
           [1, 0, 0]], dtype=uint32), 2)
    """
    sections, height, width = cell_probability.shape
    if post_processing.method != "components":
        offsets = () if affinities is None else affinities.offsets
        needed = memory.labelling(str(output), (height, width), post_processing.method, offsets)
        memory.require([needed], memory_gb)
    return labelled(
        post_processing.read_regions(cell_probability, affinities),
        (sections, height, width),
        output,
        minimum_size=post_processing.minimum_size,
        block=block,
        memory_gb=memory_gb,
    )


def above(cell_probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return where a probability is above a threshold, compared in float64 as in the challenge.

    The comparison matters for ties: 0.7 in float32 is not 0.7 in float64. The map is not converted to
    float64. Instead, the threshold is rounded down to the type of the map (`largest_not_above`); a value
    above that is also above the threshold in float64.

    Parameters
    ----------
    cell_probability : array of float
        Cell probability of any shape.
    threshold : float
        Threshold.

    Returns
    -------
    array of bool
        True where the probability is above the threshold; same shape.

    Examples
    --------
    In float32, 0.7 is slightly smaller than in float64, and 0.3 is slightly larger.

    >>> import numpy as np
    >>> from pipeline_lib.instances.postprocessing import above
    >>> above(np.array([0.7], np.float32), 0.7), above(np.array([0.3], np.float32), 0.3)
    (array([False]), array([ True]))
    """
    return cell_probability > largest_not_above(threshold, cell_probability.dtype)


def largest_not_above(threshold: float, dtype: np.dtype[np.floating] | type[np.floating]) -> np.floating:
    """Return the largest number of a floating-point type that is not above a threshold.

    Parameters
    ----------
    threshold : float
        Threshold, in float64.
    dtype : dtype-like
        Floating-point type, for instance float32.

    Returns
    -------
    np.floating
        Number of this type.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.postprocessing import largest_not_above
    >>> float(largest_not_above(0.3, np.float32)) < 0.3 < float(np.float32(0.3))
    True
    """
    largest = np.dtype(dtype).type(threshold)
    return np.nextafter(largest, -np.inf, dtype=dtype) if float(largest) > threshold else largest


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    """Return whether a value is a number of this kind; bool, which Python counts as int, is not."""
    return isinstance(value, kind) and not isinstance(value, bool)


@compiled
def _without_small(labels: np.ndarray, minimum_size: int) -> np.ndarray:
    """Remove labels 1..n (flat, int32) with fewer than `minimum_size` px and renumber the others."""
    size = np.zeros(labels.max() + 1, np.int64)
    for label in labels:
        size[label] += 1
    number = np.zeros(size.size, np.int32)
    used = 0
    for label in range(1, size.size):
        if size[label] >= minimum_size:
            used += 1
            number[label] = used
    kept = np.empty_like(labels)
    for pixel in range(labels.size):
        kept[pixel] = number[labels[pixel]]
    return kept
