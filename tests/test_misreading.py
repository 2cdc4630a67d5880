"""Inputs that users of other tools really have, from their folder to the dataset: read right, or asked.

Each test writes the files, the table and the config of a run, does the checks of the dry run and builds the
datasets. The situations come from public bug reports.
"""

import contextlib
import re
from pathlib import Path

import bad_inputs
import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError

RIGHT = 0.95  # smallest correlation of an image with its own cells


def grid(size=96, step=24, gap=3):
    """Sixteen square cells that do not touch."""
    y, x = np.mgrid[:size, :size]
    inside = (y % step >= gap) & (y % step < step - gap) & (x % step >= gap) & (x % step < step - gap)
    return np.where(inside, 1 + y // step * (size // step) + x // step, 0).astype(np.uint16)


def photo(labels, seed=0):
    """Bright cells on a dark background, with noise."""
    noise = np.random.default_rng(seed).normal(0, 8, labels.shape)
    return (np.where(labels > 0, 180, 60) + noise).clip(0, 255).astype(np.uint8)


def write(name, array, **options):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".png"):
        Path(name).write_bytes(imagecodecs.png_encode(array))
    else:
        tifffile.imwrite(name, array, **({"photometric": "minisblack"} | options))


@pytest.fixture(autouse=True)
def folder(tmp_path):
    with contextlib.chdir(tmp_path):
        yield tmp_path


def build(*rows, columns=(), **dataset):
    """Build the datasets of the rows (images, annotation, ...), each a test volume; return their arrays.

    A sound training and validation volume comes first.
    """
    for name, seed in (("t", 1), ("v", 2)):
        write(f"sound/{name}.tif", photo(grid(), seed))
        write(f"sound/{name}_labels.tif", grid())
    header = ["volume", "images", "annotation", "split", *columns]
    lines = [header]
    lines += [
        [n, f"sound/{n}.tif", f"sound/{n}_labels.tif", s] for n, s in (("t", "train"), ("v", "validation"))
    ]
    lines += [
        [f"volume{n}", images, annotation, "test", *more]
        for n, (images, annotation, *more) in enumerate(rows)
    ]
    Path("my.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    config = {"volumes": "my.tsv", "network": {"depth": 1, "base_channels": 2}, "training": {"tile": 44}}
    Path("my.yaml").write_text(yaml.safe_dump(config | ({"dataset": dataset} if dataset else {})))
    volumes, settings = bad_inputs.dry_run()
    found = []
    for volume in volumes[2:]:
        bad_inputs.build(volume, settings["dataset"])
        with h5py.File(f"results/{volume.volume}.h5") as file:
            found.append({name: file[name][:] for name in file})
    return found


def agreement(dataset):
    """Correlation of each section of the image with its cells."""
    pairs = zip(dataset["raw"][0], dataset["labels"] > 0, strict=True)
    return [float(np.corrcoef(raw.ravel(), cells.ravel())[0, 1]) for raw, cells in pairs]


def fix_of(error):
    """The first settings that a message says to set."""
    return yaml.safe_load(re.search(r"`dataset: (\{[^`]*\})`", str(error.value))[1])


def moved(number):
    """The cells of one image; each number gives other places."""
    return np.roll(grid(), (5 * number, 3 * number), (0, 1))


# ------------------------------------------------------------------------- what belongs together


def test_slices_are_paired_by_the_part_of_their_names_that_varies():
    for number, condition in enumerate(("wt", "ko", "mut")):
        write(f"raw/{condition}_{number + 1}.tif", photo(moved(number)))
        write(f"masks/mask_{number + 1}_{condition}.tif", moved(number))
    (found,) = build(("raw", "masks"))
    assert min(agreement(found)) > RIGHT


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["cellA", "cellB", "cellC"], ["cellA", "cellC", "cellD"]),
        (["t000", "t001", "t002"], ["man_seg000", "man_seg002", "man_seg004"]),
        (["img_1", "img_2", "img_3"], ["lab_0", "lab_1", "lab_2"]),
    ],
)
def test_names_that_do_not_decide_are_asked(images, masks):
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        write(f"raw/{image}.tif", photo(moved(number)))
        write(f"masks/{mask}.tif", moved(number))
    with pytest.raises(InputError, match="pairing: order") as error:
        build(("raw", "masks"))
    assert images[2] in str(error.value) and masks[2] in str(error.value)
    (found,) = build(("raw", "masks"), **fix_of(error))
    assert min(agreement(found)) > RIGHT


@pytest.mark.parametrize("names", ["{}_masks", "{}_cp_masks", "mask_{}", "{}_ch01"])
def test_files_that_are_no_sections_are_recognised(names):
    for number in range(3):
        name = f"s{number}_ch00" if "ch01" in names else f"s{number}"
        write(f"all/{name}.tif", photo(moved(number)))
        write(f"all/{names.format(f's{number}')}.tif", moved(number))
    write("masks.tif", np.stack([moved(number) for number in range(3)]))
    with pytest.raises(InputError, match=r"all: the names of its 6 files do not show one stack") as error:
        build(("all", "masks.tif"))
    patterns = re.findall(r"(/\S+) \(3 files\)", str(error.value))
    images = next(pattern for pattern in patterns if "mask" not in pattern and "ch01" not in pattern)
    (found,) = build((f"all{images}", "masks.tif"))
    assert min(agreement(found)) > RIGHT


def test_one_mask_for_each_cell():
    cells = grid()
    write("images/a.png", photo(cells))
    for number in range(1, 17):
        write(f"masks/a/{number:02d}.png", np.where(cells == number, 255, 0).astype(np.uint8))
    masks = np.stack([np.where(cells == number, 255, 0).astype(np.uint8) for number in range(1, 17)])
    write("masks.tif", masks)
    with h5py.File("masks.h5", "w") as file:
        file["masks"] = masks
    rows = [("images/a.png", "masks/a"), ("images/a.png", "masks.tif"), ("images/a.png", "masks.h5:/masks")]
    for found in build(*rows):
        np.testing.assert_array_equal(found["labels"][0], cells)
    write("stack.tif", np.stack([cells] * 3))
    with pytest.raises(InputError, match=r"3 slices for one image, .* an image with as many sections"):
        build(("images/a.png", "stack.tif"))


@pytest.mark.parametrize(
    "other", ["slices/s1.tif", "a.h5:/soft", "a.h5:/hard", "virtual.h5:/raw", "link.tif"]
)
def test_test_images_that_are_training_images_are_refused(other):
    for number in range(3):
        write(f"slices/s{number}.tif", photo(moved(number)))
        write(f"labels/s{number}.tif", moved(number))
    stack = np.stack([photo(moved(number)) for number in range(2)])
    with h5py.File("a.h5", "w") as file:
        file["raw"] = stack
        file["soft"], file["hard"] = h5py.SoftLink("/raw"), file["raw"]
        file["labels"] = np.stack([moved(0), moved(1)])
    layout = h5py.VirtualLayout(stack.shape, stack.dtype)
    layout[:] = h5py.VirtualSource("a.h5", "raw", stack.shape)
    with h5py.File("virtual.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    Path("link.tif").symlink_to("slices/s0.tif")
    first = ("slices", "labels") if other.endswith(".tif") else ("a.h5:/raw", "a.h5:/labels")
    annotation = {"slices/s1.tif": "labels/s1.tif", "link.tif": "labels/s0.tif"}.get(other, "a.h5:/labels")
    Path("my.tsv").write_text(
        "volume\timages\tannotation\tsplit\n"
        + "".join(
            f"{n}\t{i}\t{a}\t{s}\n"
            for n, i, a, s in (("a", *first, "train"), ("b", other, annotation, "test"))
        )
        + "c\tslices/s2.tif\tlabels/s2.tif\tvalidation\n" * other.startswith(("a.h5", "virtual"))
        + "c\ta.h5:/raw\ta.h5:/labels\tvalidation\n" * other.endswith(".tif")
    )
    Path("my.yaml").write_text(
        "volumes: my.tsv\nnetwork: {depth: 1, base_channels: 2}\ntraining: {tile: 44}\n"
    )
    with pytest.raises(InputError, match=r"volume b \(test\) shares sections of .*volume a \(train"):
        bad_inputs.dry_run()


# ---------------------------------------------------------------------------- what values mean


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 3)])
def test_classes_of_few_cells_are_asked(values):
    y, x = np.mgrid[:96, :96]
    radius = np.hypot(y % 48 - 24, x % 24 - 12)
    inside, border = radius < 7, (radius >= 7) & (radius < 9)
    classes = np.select([inside, border], values[1:], values[0]).astype(np.uint8)
    write("raw.tif", photo(inside | border))
    write("classes.tif", classes)
    with pytest.raises(InputError, match="the meaning of the values is not clear") as error:
        build(("raw.tif", "classes.tif"))
    (found,) = build(("raw.tif", "classes.tif"), **fix_of(error))
    assert len(np.unique(found["labels"])) == 9 and min(agreement(found)) > RIGHT


@pytest.mark.parametrize("cells_first", [True, False])
def test_membranes_of_either_colour(cells_first):
    y, x = np.mgrid[:96, :96]
    membrane = (y % 16 < 2) | (x % 16 < 2)
    write("raw.tif", photo(~membrane))
    write("drawn.tif", np.where(membrane == cells_first, 0, 255).astype(np.uint8))
    (found,) = build(("raw.tif", "drawn.tif"))
    np.testing.assert_array_equal(found["labels"][0] > 0, ~membrane)


def test_pixels_that_nobody_annotated():
    cells = grid().astype(np.uint8)
    cells[:, 70:] = 255
    write("raw.tif", photo(grid()))
    write("labels.tif", cells)
    with pytest.raises(InputError, match=r"255 in 27\.08% of the pixels"):
        build(("raw.tif", "labels.tif"))
    (found,) = build(("raw.tif", "labels.tif", "255"), columns=["ignore"])
    np.testing.assert_array_equal(found["ignore"][0], cells == 255)
    np.testing.assert_array_equal(found["labels"][0], np.where(cells == 255, 0, cells))


def test_sections_that_nobody_annotated():
    labels = np.zeros((6, 96, 96), np.uint16)
    labels[[0, 3]] = grid()
    write("raw.tif", np.stack([photo(grid(), seed) for seed in range(6)]))
    write("labels.tif", labels)
    with pytest.raises(
        InputError, match=r"4 of 6 sections have no cell \(section 1, 2, 4, 5, counted from 0"
    ):
        build(("raw.tif", "labels.tif"))
    (found,) = build(("raw.tif", "labels.tif", "ignore"), columns=["empty_sections"])
    assert found["ignore"].all(axis=(1, 2)).tolist() == [False, True, True, False, True, True]
    (found,) = build(("raw.tif", "labels.tif", "background"), columns=["empty_sections"])
    assert "ignore" not in found


@pytest.mark.parametrize("value", [0, 1])
def test_images_without_cells_or_with_one_cell_all_over(value):
    write("raw.tif", photo(np.full((96, 96), value)))
    write("labels.tif", np.full((96, 96), value, np.uint8))
    (found,) = build(("raw.tif", "labels.tif", "instances"), columns=["annotation_kind"])
    assert (found["labels"] == value).all()


def test_cells_one_pixel_wide():
    thin = np.zeros((96, 96), np.uint8)
    for number in range(20):
        thin[4 * number + 2, 5:90] = number + 1
    write("raw.tif", photo(thin))
    write("thin.tif", thin)
    for kind in ("auto", "instances"):
        (found,) = build(("raw.tif", "thin.tif"), annotation_kind=kind)
        np.testing.assert_array_equal(found["labels"][0], thin)


# ------------------------------------------------------------------- polarity, geometry and colours


def test_a_one_bit_tiff_with_white_is_zero():
    y, x = np.mgrid[:64, :64]
    cells = (y % 16 > 2) & (x % 16 > 2)
    write("raw.tif", photo(cells))
    tifffile.imwrite("mask.tif", ~cells, photometric="miniswhite", software="scanner")
    (found,) = build(("raw.tif", "mask.tif"))
    np.testing.assert_array_equal(found["labels"][0] > 0, cells)


@pytest.mark.parametrize("photometric", [0, 1])
def test_masks_of_one_bit_are_as_displayed(photometric):
    cells = grid()
    hidden = np.zeros(cells.shape, bool)
    hidden[:20] = True
    write("raw.tif", photo(cells))
    write("labels.tif", cells)
    Image.fromarray(hidden).save("mask.tif", tiffinfo={262: photometric})
    rows = ("raw.tif", "labels.tif", "mask.tif")
    (found,) = build(rows, columns=["ignore_mask"], annotation_kind="instances")
    np.testing.assert_array_equal(found["ignore"][0] > 0, hidden)


def test_palettes_that_differ_between_pages():
    """As some programs save animations: the same value is another colour on each page."""
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 2, (9, 9), np.uint8), "P") for _ in range(2)]
    for page, colours in zip(pages, ([255, 0, 0, 0, 0, 255], [0, 0, 255, 255, 0, 0]), strict=True):
        page.putpalette(colours)
    pages[0].save("a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="the palette of page 1 differs from that of the first"):
        imageio.inspect("a.tif")
    pages[0].save("b.tif", save_all=True, append_images=pages[:1])
    assert imageio.inspect("b.tif").sections == 2
    with tifffile.TiffWriter("c.tif") as file:  # with a small copy in colours
        colours = np.arange(3 * 256, dtype=np.uint16).reshape(3, 256)
        file.write(np.eye(64, dtype=np.uint8), photometric="palette", colormap=colours, metadata=None)
        file.write(np.zeros((9, 9, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
    assert imageio.inspect("c.tif").sections == 1


def test_a_file_of_a_set_with_a_companion():
    xml = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    xml += '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:1"/></OME>'
    with tifffile.TiffWriter("a.ome.tif") as file:
        for page in range(3):
            file.write(np.zeros((9, 9), np.uint8), description=xml if page == 0 else None, metadata=None)
    with pytest.raises(
        InputError, match=r"another file, set\.companion\.ome, which is not read. Convert both"
    ):
        imageio.inspect("a.ome.tif")


def test_orientation_of_a_tiff():
    cells = np.where(np.isin(grid(), (1, 2, 5, 12)), grid(), 0)
    write("raw.tif", photo(cells)[::-1], extratags=[(274, "H", 1, 4, True)], metadata=None)
    write("labels.tif", cells)
    (found,) = build(("raw.tif", "labels.tif"), annotation_kind="instances")
    assert min(agreement(found)) > RIGHT


@pytest.mark.parametrize("channels", [3, 4])
def test_gray_levels_saved_as_colour(channels):
    gray = photo(grid())
    colours = np.dstack([gray] * 3 + [np.full_like(gray, 255)])[..., :channels]
    write("raw.png", np.ascontiguousarray(colours))
    write("labels.tif", grid())
    (found,) = build(("raw.png", "labels.tif"))
    np.testing.assert_array_equal(found["raw"][0, 0], gray)
