"""Read images and annotations as arrays, and write arrays as TIFF files.

This package alone knows file formats, the order of axes, and whether 0 is black or white.

Readable formats: TIFF (strips or tiles, multi-page, ImageJ, OME, BigTIFF), PNG, JPEG and BMP, a folder of
such slices in natural order or a pattern of their names, HDF5 as `file.h5:/dataset`, and OME-Zarr as
`image.zarr`. Files are read region by region; only the strips, tiles or chunks that a region touches are
decoded. Channels in separate files are one image, `first.tif + second.tif`.

Written formats: compressed TIFF for Fiji and napari, one strip at a time, and OME-Zarr.

Axes are `c` (channel), `z` (section), `y` (row) and `x` (column).
"""

from pipeline_lib.imageio.annotation import (
    Annotation,
    AnnotationSettings,
    open_annotation,
    open_mask,
    read_annotation,
)
from pipeline_lib.imageio.apart import inspect_apart
from pipeline_lib.imageio.headers import (
    Channels,
    ImageInfo,
    Stored,
    number_of,
    require_channels,
    require_memory,
)
from pipeline_lib.imageio.images import Images, inspect, open_images, pixel_size, read_images
from pipeline_lib.imageio.kinds import ANNOTATION_KINDS
from pipeline_lib.imageio.naming import (
    PLUS,
    SLICE_SUFFIXES,
    are_slices,
    channel_paths,
    identity,
    natural_key,
    parse_sections,
    row_range,
    section_ranges,
    slice_files,
    source_file,
    source_files,
    zarr_files,
    zarr_path,
)
from pipeline_lib.imageio.pairing import PAIRINGS, matching_slices
from pipeline_lib.imageio.prediction import (
    PREDICTION_KINDS,
    Prediction,
    kind_of_prediction,
    read_prediction,
)
from pipeline_lib.imageio.regions import AnnotationRegions
from pipeline_lib.imageio.writing import (
    write_channels,
    write_classes,
    write_images,
    write_labels,
    write_probability,
)

__all__ = [
    "ANNOTATION_KINDS",
    "PAIRINGS",
    "PLUS",
    "PREDICTION_KINDS",
    "SLICE_SUFFIXES",
    "Annotation",
    "AnnotationRegions",
    "AnnotationSettings",
    "Channels",
    "ImageInfo",
    "Images",
    "Prediction",
    "Stored",
    "are_slices",
    "channel_paths",
    "identity",
    "inspect",
    "inspect_apart",
    "kind_of_prediction",
    "matching_slices",
    "natural_key",
    "number_of",
    "open_annotation",
    "open_images",
    "open_mask",
    "parse_sections",
    "pixel_size",
    "read_annotation",
    "read_images",
    "read_prediction",
    "require_channels",
    "require_memory",
    "row_range",
    "section_ranges",
    "slice_files",
    "source_file",
    "source_files",
    "write_channels",
    "write_classes",
    "write_images",
    "write_labels",
    "write_probability",
    "zarr_files",
    "zarr_path",
]
