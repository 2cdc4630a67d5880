"""Find images and their annotations in a folder by the names of files and folders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline_lib import provenance
from pipeline_lib.data.volumes import is_valid_name
from pipeline_lib.imageio.naming import SLICE_SUFFIXES, hdf5_path, natural_key, zarr_path
from pipeline_lib.imageio.omezarr import METADATA
from pipeline_lib.imageio.pairing import equal_pairs, pair_files
from pipeline_lib.imageio.remote import require_local
from pipeline_lib.imageio.series import LISTED, MASK_WORDS
from pipeline_lib.imageio.tokens import parsed
from pipeline_lib.runtime.errors import InputError

#: Words in the names of images. With `MASK_WORDS`, they do not tell images apart.
IMAGE_WORDS = {"image", "images", "img", "imgs", "original", "raw", "volume", "volumes", "input", "inputs"}
#: Words in the names of folders that state the use of the images in them.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "valset": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
}
_ROLES = MASK_WORDS | IMAGE_WORDS | {"ground"}  # ground truth
#: Files that often have annotations, and how to make images of them.
_NOT_READ = {
    ".npy": "Save the masks as PNG or TIFF (in Cellpose: `File > Save masks as PNG/tif`)",
    ".gif": "Save the masks as PNG or TIFF",
    ".json": "Save a label image, or for boxes, write a table with this file as `annotation`",
    ".geojson": "Save a label image",
    ".zip": "For ROIs of ImageJ, save a label image",
    ".roi": "Save a label image",
}
_NO_NAME = re.compile(r"[\t\n\r{}<>]")  # what a path in a table of volumes cannot have
_STATE = "--annotations 'drawn/*.png', if needed also --images 'raw/*.tif'"


@dataclass(frozen=True)
class Found:
    """An image of a folder, and its annotation.

    Parameters
    ----------
    name : str
        Name for the table of volumes.
    images : str
        Path of the image, relative to the folder.
    annotation : str or None
        Path of the annotation, relative to the folder: a file, or a folder with one mask for each cell.
    split : str or None, default None
        Use of the image that the name of its folder states; None if it states none.
    """

    name: str
    images: str
    annotation: str | None
    split: str | None = None


def find_images(folder: Path, images: str | None = None, annotations: str | None = None) -> list[Found]:
    """Find the images of a folder and its subfolders, and pair them with their annotations.

    A file is an annotation if its name, or that of a folder that it is in, contains one of `MASK_WORDS`.
    Images and annotations are paired by their names within each group of folders whose names differ only in
    these words and in `IMAGE_WORDS`. Several annotations of a single image in a folder of their own are masks
    of its cells. The labels in an OME-Zarr are its annotation. Images without annotation remain alone.

    Parameters
    ----------
    folder : Path
        Folder to search. Hidden files and results of runs are left out.
    images, annotations : str, optional
        Patterns relative to `folder`, which state what are images and annotations: `raw/*.tif`. Without
        `images`, these are the other files whose names do not say mask. Both can be `file.h5:/dataset`.

    Returns
    -------
    list of Found
        Images in natural order.

    Raises
    ------
    InputError
        If there are no images or no annotations, or if the names do not tell which belong together.
    """
    require_local(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder with the images.")
    if images is not None and annotations is None:
        raise InputError(f"--images: is given without --annotations. State both: {_STATE}.")
    if images and annotations and (hdf5_path(images) or hdf5_path(annotations)):
        raw = _single(folder, images, "images")
        return [Found("volume", raw, _single(folder, annotations, "annotations"))]
    if annotations is not None:
        drawn = _matching(folder, annotations, "annotations")
        if images is None:
            others = [file for file in _readable(folder) if not _is_annotation(folder, file)]
            return _named(folder, _paired(folder, [file for file in others if file not in drawn], drawn))
        stated = _matching(folder, images, "images")
        if both := {*stated} & {*drawn}:
            raise InputError(
                f"{min(both)}: matches --images {images} and --annotations {annotations}, expected one of "
                "the two. Narrow the patterns."
            )
        return _named(folder, _paired(folder, stated, drawn))
    files = [*_readable(folder)]
    if not files:
        raise InputError(
            f"{folder}: found no images ({', '.join(SLICE_SUFFIXES)}) in it or its subfolders. Name another "
            "folder, or for HDF5 add --images FILE.h5:/DATASET --annotations FILE.h5:/DATASET."
        )
    groups: dict[Hashable, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for file in files:
        groups[_group(folder, file)][_is_annotation(folder, file)].append(file)
    inside = any(_labels_inside(folder, file) for file in files)
    if not inside and not any(annotated for _, annotated in groups.values()):
        raise InputError(
            f"{folder}: found {len(files)} images, but no annotations: no image or folder of images has a "
            f"word such as mask, label, seg or gt in its name.{_not_read(folder)} Add {_STATE}."
        )
    if not any(raw and drawn for raw, drawn in groups.values()):  # names of folders do not tell
        drawn = [file for _, annotated in groups.values() for file in annotated]
        groups = {(): ([file for own, _ in groups.values() for file in own], drawn)}
    pairs = [pair for group in groups.values() for pair in _paired(folder, *group)]
    return _named(folder, pairs)


def _readable(folder: Path) -> Iterator[Path]:
    """Yield the image files of a folder and its subfolders, without hidden ones and results of bordure.

    A result that was edited since, such as corrected labels, is no result any more.
    """
    for entry in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not _is_image(entry):
            yield from _readable(entry)
        elif _is_image(entry) and not (entry.is_file() and provenance.is_result(entry)):
            yield _valid_path(entry)


def _valid_path(path: Path) -> Path:
    """Return a path; raise `InputError` if a table of volumes cannot have it."""
    shown = str(path).encode(errors="replace").decode()
    if shown != str(path):
        raise InputError(
            f"{shown}: the name is not valid UTF-8. Rename the file, or convert all names of its folder, for "
            "example from those of Windows with `convmv -f cp1252 -t utf8 -r --notest FOLDER`."
        )
    if found := _NO_NAME.search(str(path)):
        raise InputError(f"{path}: found {found[0]!r} in the path. Rename the file or folder.")
    return path


def _not_read(folder: Path) -> str:
    """Return what to do about a file that may have annotations, but is not read; nothing if there is none."""
    for suffix, fix in _NOT_READ.items():
        for path in sorted(folder.rglob(f"*{suffix}")):
            shown = path.relative_to(folder)
            if not any(part.startswith(".") for part in shown.parts):
                return f" Files such as {shown} are not read. {fix}."
    return ""


def _is_image(path: Path) -> bool:
    """Return whether a path is an image by its suffix."""
    return path.suffix.lower() in SLICE_SUFFIXES or (path.is_dir() and zarr_path(path) is not None)


def _labels_inside(folder: Path, image: Path) -> str | None:
    """Return the path of the labels in an OME-Zarr, relative to `folder`; None if it has none."""
    if zarr_path(image) is None or not (image / "labels").is_dir():
        return None
    found = sorted(
        path for path in (image / "labels").iterdir() if any((path / name).is_file() for name in METADATA)
    )
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise InputError(
            f"{image}: has several labels ({listed}), expected one. Write the table of volumes yourself, "
            f"with {found[0].relative_to(folder)} or another one as `annotation`."
        )
    return str(found[0].relative_to(folder)) if found else None


def _matching(folder: Path, pattern: str, option: str) -> list[Path]:
    """Return the image files that match a pattern; raise `InputError` if there are none."""
    if Path(pattern).is_absolute():
        raise InputError(f"--{option} {pattern}: is an absolute path, expected one relative to {folder}.")
    found = [
        file
        for path in folder.glob(pattern)
        for file in ([path] if _is_image(path) or not path.is_dir() else path.iterdir())
        if _is_image(file) and not file.name.startswith(".")
    ]
    if not found:
        raise InputError(
            f"--{option} {pattern}: matches no image ({', '.join(SLICE_SUFFIXES)}) in {folder}. Write it "
            f"relative to this folder, and in quotes: --{option} 'raw/*.tif'."
        )
    return sorted({*map(_valid_path, found)}, key=lambda path: natural_key(str(path)))


def _single(folder: Path, pattern: str, option: str) -> str:
    """Return the path of a dataset, or of the one file that matches a pattern, relative to `folder`."""
    if hdf5_path(pattern):
        return pattern
    found = _matching(folder, pattern, option)
    if len(found) > 1:
        raise InputError(
            f"--{option} {pattern}: matches {len(found)} files, expected one, because the other option names "
            "a single dataset."
        )
    return found[0].relative_to(folder).as_posix()


def _words(name: str) -> tuple[int | str, ...]:
    return tuple(token.value for token in parsed([Path(f"{name}.tif")])[0])


def _is_annotation(folder: Path, file: Path) -> bool:
    """Return whether the name of a file, or of a folder between it and `folder`, says so."""
    parts = [*file.relative_to(folder).parts[:-1], file.stem]
    return any(not MASK_WORDS.isdisjoint(_words(part)) for part in parts)


def _group(folder: Path, file: Path) -> Hashable:
    """Return what is left of the names of the folders of a file without words for images and masks."""
    parts = file.relative_to(folder).parts[:-1]
    kept = (tuple(word for word in _words(part) if word not in _ROLES) for part in parts)
    return tuple(filter(None, kept))


def _paired(
    folder: Path, images: Sequence[Path], annotations: Sequence[Path]
) -> list[tuple[Path, Path | None]]:
    """Return each image with its annotation; raise `InputError` if an annotation has no image."""
    pairs = pair_files(images, annotations)
    if len(images) == 1 < len(annotations) and not pairs:
        own = {path.parent for path in annotations}
        if len(own) == 1 and images[0].parent not in own:
            return [(images[0], own.pop())]  # one mask for each cell
    if len(images) == len(annotations) == 1 and _only_numbers_differ(images[0], annotations[0]):
        pairs = {}
    for names in (_without_roles, _numbers, partial(_all_numbers, folder)):
        if len(pairs) < len(annotations):
            others = _plausible(equal_pairs(names(images), names(annotations)), images, annotations)
            pairs = max(pairs, others, key=len)
    if len(pairs) < len(annotations):
        spare = [annotations[n] for n in range(len(annotations)) if n not in pairs.values()]
        listed = ", ".join(str(path.relative_to(folder)) for path in spare[:LISTED])
        more = f" and {len(spare) - LISTED} more" if len(spare) > LISTED else ""
        raise InputError(
            f"{folder}: it is not clear which image belongs to {listed}{more} (images found: {len(images)}, "
            f"annotations: {len(annotations)}). Rename the files so that a pair has the same number or name, "
            f"or state which files are annotations: {_STATE}."
        )
    return [(image, annotations[pairs[n]] if n in pairs else None) for n, image in enumerate(images)]


def _without_roles(paths: Sequence[Path]) -> list[Hashable]:
    """Return names without words for images and masks: `train-volume` belongs to `train-labels`."""
    return [tuple(token.value for token in name if token.value not in _ROLES) for name in parsed(paths)]


def _numbers(paths: Sequence[Path]) -> list[Hashable]:
    """Return the numbers in names: `t001` belongs to `man_seg001`, also if it is the only annotation."""
    return [tuple(token.value for token in name if isinstance(token.value, int)) for name in parsed(paths)]


def _all_numbers(folder: Path, paths: Sequence[Path]) -> list[Hashable]:
    """Return the numbers in names and folders: `01/t000` belongs to `01_ST/SEG/man_seg000`."""
    parts = ([*path.relative_to(folder).parent.parts, path.stem] for path in paths)
    return [tuple(value for part in own for value in _words(part) if isinstance(value, int)) for own in parts]


def _words_of(path: Path) -> set[str]:
    """Return the words of a name, without those for images and masks and without numbers."""
    return {word for word in _words(path.stem) if isinstance(word, str)} - _ROLES


def _plausible(pairs: dict[int, int], images: Sequence[Path], annotations: Sequence[Path]) -> dict[int, int]:
    """Return the pairs whose annotation has no word that only other images have: `drug_1` is not `ctrl_1`."""
    words = [_words_of(path) for path in images]
    every = {word for own in words for word in own}
    return {n: m for n, m in pairs.items() if not _words_of(annotations[m]) & every - words[n]}


def _only_numbers_differ(image: Path, annotation: Path) -> bool:
    """Return whether two names have the same words and other numbers: `cell_5` is not `cell_6_mask`."""
    one, other = _numbers([image, annotation])
    return bool(one and other) and one != other and _words_of(image) == _words_of(annotation)


def _named(folder: Path, pairs: Sequence[tuple[Path, Path | None]]) -> list[Found]:
    """Return the images with names for the table of volumes, in natural order."""
    pairs = sorted(pairs, key=lambda pair: natural_key(str(pair[0].relative_to(folder))))
    stems = [_valid(image.stem) for image, _ in pairs]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [_valid("_".join(image.relative_to(folder).with_suffix("").parts)) for image, _ in pairs]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [f"{number:0{len(str(len(stems)))}d}_{stem}" for number, stem in enumerate(stems, 1)]
    return [
        Found(
            stem,
            image.relative_to(folder).as_posix(),
            annotation.relative_to(folder).as_posix() if annotation else _labels_inside(folder, image),
            _split(folder, image),
        )
        for stem, (image, annotation) in zip(stems, pairs, strict=True)
    ]


def _valid(name: str) -> str:
    """Return a name of at most 80 letters that is valid in a table of volumes."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:80].rstrip(".") or "image"
    return name if is_valid_name(name) else f"image_{name}"  # such as con, a device of Windows


def _split(folder: Path, image: Path) -> str | None:
    """Return the use of an image that the name of one of its folders states."""
    parts = image.relative_to(folder).parts[:-1]
    found = {SPLIT_WORDS[word] for part in parts for word in _words(part) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None
