"""Lines for a terminal that messages name: each corrects the file that caused the message."""

from __future__ import annotations

import glob
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.imageio.naming import hdf5_path, is_pattern, slice_files

if TYPE_CHECKING:
    from pipeline_lib.imageio.headers import ImageInfo


# Ends of `_files` of formats that the lines do not write
_AS_PNG = tuple(f".{suffix}'{end}" for suffix in ("bmp", "jpg", "jpeg") for end in "])")


def python_line(code: str) -> str:
    """Return a line for a terminal that runs Python code."""
    plain = not set(code) & set('"$`\\!')
    return f'python -c "{code}"' if plain else f"python -c {shlex.quote(code)}"


def _files(path: str | Path) -> str:
    """Return a Python expression for the names of the files of an image: one, or its slices."""
    if is_pattern(path):
        return f"__import__('glob').glob({str(path)!r})"
    if not Path(path).is_dir() or not (slices := slice_files(Path(path))):
        return f"[{str(path)!r}]"
    return f"__import__('glob').glob({glob.escape(str(path)) + '/*' + slices[0].suffix!r})"


def set_tag(path: str | Path, code: int, value: int | str) -> str:
    """Return a line for a terminal that sets a tag of all pages of a TIFF file or folder, where present."""
    return python_line(
        f"import tifffile; [[page.tags[{code}].overwrite({value!r}) for page in file.pages if {code} in "
        "page.tags] and file.close() for file in (tifffile.TiffFile(name, mode='r+') for name in "
        f"{_files(path)})]"
    )


def set_description(path: str | Path, description: str) -> str:
    """Return a line for a terminal that replaces the description of the first page of a TIFF file."""
    name, text = json.dumps(str(path), ensure_ascii=False), json.dumps(description)
    return python_line(f"import tifffile; tifffile.tiffcomment({name}, {text})")


def without_marked_pages(path: str | Path, photometric: int) -> str:
    """Return a line for a terminal that removes smaller copies and masks from the pages of a TIFF file."""
    return python_line(
        f"import tifffile as t; f = t.TiffFile({str(path)!r}); a = [page.asarray() for page in f.pages if "
        f"not page.subfiletype & 5]; f.close(); t.imwrite({str(path)!r}, a, photometric={int(photometric)}, "
        "ome=False)"
    )


def as_stack(path: str | Path) -> str:
    """Return a line for a terminal that saves the planes of a TIFF file as sections instead of colours."""
    return _rewritten(path, "a", "minisblack")


def without_alpha(path: str | Path, info: ImageInfo) -> str:
    """Return a line for a terminal that removes transparency, which is the last channel where present."""
    if info.rgb or info.palette:
        return _rewritten(path, "a[..., :3]", "rgb", info)
    return _rewritten(
        path, "n.atleast_3d(a)[..., 0]", "miniswhite" if info.white_is_zero else "minisblack", info
    )


def without_palette(path: str | Path, mode: str) -> str:
    """Return a line for a terminal that replaces palettes by numbers (mode "L") or colours (mode "RGB")."""
    image = "i.open(name)" if mode == "L" else f"i.open(name).convert('{mode}')"
    return python_line(
        "import numpy as n; from PIL import Image as i; "
        f"[i.fromarray(n.array({image})).save(name) for name in {_files(path)}]"
    )


def frames_as_tiff(path: Path) -> str:
    """Return a line for a terminal that writes the images of a PNG animation as sections of a TIFF file."""
    return python_line(
        f"import numpy as n, tifffile as t; from PIL import Image as i, ImageSequence as s; "
        f"t.imwrite({str(path.with_suffix('.tif'))!r}, n.stack([n.array(frame.convert('RGB')) for frame in "
        f"s.Iterator(i.open({str(path)!r}))]), photometric='rgb')"
    )


def numbered(path: str | Path, info: ImageInfo, background: int) -> str:
    """Return a line for a terminal that replaces colours by numbers, the same in all files of a folder.

    `background` is the value of red, green and blue of the background, which becomes 0.
    """
    # k: number of each colour; c: colours of a file; r: their ranks at each pixel
    numbers = "n.array([k.setdefault(tuple(x), len(k)) for x in c.tolist()], 'u2')[r.reshape(a.shape[:-1])]"
    return _rewritten(
        path,
        numbers,
        "minisblack",
        info,
        before=f"k = {{{(background,) * 3}: 0}}; ",
        loops=" for c, r in [n.unique(a.reshape(-1, 3), axis=0, return_inverse=True)]",
    )


def black_and_white(path: str | Path, info: ImageInfo, middle: float) -> str:
    """Return a line for a terminal that makes values up to `middle` 0 and others 255."""
    array = "a[..., 0]" if info.rgb else "a"
    return _rewritten(path, f"n.uint8({array} > {middle:g}) * n.uint8(255)", "minisblack", info)


def without_rare_colours(path: str | Path, info: ImageInfo, least: int) -> str:
    """Return a line for a terminal that gives pixels of rare colours the colour of the nearest other pixel.

    Rare are colours of fewer than `least` pixels.
    """
    # c: colours of a file; r: their ranks at each pixel; q: their numbers of pixels
    rare = f"(q < {least})[r].reshape(a.shape[:2])"
    nearest = "__import__('scipy.ndimage').ndimage.distance_transform_edt"
    counted = "n.unique(a[..., :3].reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)"
    return _rewritten(
        path,
        f"a[tuple({nearest}({rare}, return_distances=False, return_indices=True))][..., :3]",
        "rgb",
        info,
        loops=f" for c, r, q in [{counted}]",
    )


def fill_outlines(path: str | Path) -> str:
    """Return a line for a terminal that fills the holes of each label of an annotation."""
    fill = "__import__('scipy.ndimage').ndimage.binary_fill_holes"
    filled = f"({fill}(s == k) * k for k in n.unique(s)[1:])"
    section = f"__import__('functools').reduce(n.maximum, {filled}, s)"
    sections = f"n.stack([{section} for s in a.reshape(-1, *a.shape[-2:])])"
    return _rewritten(path, f"{sections}.reshape(a.shape).astype(a.dtype)", "minisblack")


def renumbered(path: str | Path, ignore: int | None) -> str:
    """Return a line for a terminal that numbers labels from 1, the same in all files of a folder.

    0 and the value `ignore` are kept.
    """
    # k: number of each label; c: labels of a file; r: their ranks at each pixel
    kept = {0: 0} if ignore is None else {0: 0, ignore: ignore}
    before = f"k = {kept}; "
    above = f" + {ignore}" if ignore and 0 < ignore < 2**32 else ""
    numbers = f"n.array([k.setdefault(x, len(k){above}) for x in c.tolist()], a.dtype)[r.reshape(a.shape)]"
    ranks = "n.unique(a, return_inverse=True)"
    if named := hdf5_path(path):
        return python_line(
            f"import h5py, numpy as n; {before}d = h5py.File({named.file!r}, 'r+')[{named.dataset!r}]; "
            f"a = d[()]; c, r = {ranks}; d[...] = {numbers}"
        )
    return _rewritten(path, numbers, "minisblack", before=before, loops=f" for c, r in [{ranks}]")


def written(path: str | Path) -> str:
    """Return which files the lines write that change the values of an image."""
    if _files(path).lower().endswith(_AS_PNG):
        return "this writes PNG files beside, to be named in the table"
    return "this overwrites the file"


def _rewritten(
    path: str | Path,
    result: str,
    photometric: str,
    info: ImageInfo | None = None,
    *,
    before: str = "",
    loops: str = "",
) -> str:
    """Return a line for a terminal that replaces the array `a` of each file of an image by `result`.

    With `info`, colours are the last axis of `a`, and the orientation is kept. The code `before` is run once,
    and `loops` define further names for `result`.
    """
    files, modules = _files(path), "numpy as n, tifffile as t"
    # in x.ome.tif, tifffile would describe sections as channels
    array, options = "t.imread(name)", f", photometric='{photometric}', ome=False"
    if info and "S" in info.axes[:-1]:
        array = f"n.moveaxis({array}, -3, -1)"
    if info and info.orientation != 1:
        options += f", extratags=[(274, 3, 1, {info.orientation}, True)]"
    if files.lower().endswith((".png']", ".png')")):
        result, options, modules = f"{result}.copy()", "", "numpy as n, imagecodecs as t"
    if files.lower().endswith(_AS_PNG):
        code = f"i.fromarray({result}).save(name.rpartition('.')[0] + '.png')"
        return python_line(
            f"import numpy as n; from PIL import Image as i, ImageOps as o; {before}[{code} for name in "
            f"{files} for a in [n.array(o.exif_transpose(i.open(name)))]{loops}]"
        )
    return python_line(
        f"import {modules}; {before}[t.imwrite(name, {result}{options}) for name in {files} for a in "
        f"[{array}]{loops}]"
    )
