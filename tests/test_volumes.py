"""The table of volumes as people and spreadsheets write it, and a clear message for each mistake."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.data import volumes
from pipeline_lib.runtime.errors import InputError

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)

HEADER = "volume images annotation sections split"
ROWS = (
    "a raw.tif truth.tif 0-3 train",
    "b raw.tif truth.tif 4 validation",
    "c raw.tif truth.tif 5-6,8 test",
    "d raw.tif - - predict",
)


def table(folder, *rows, header=HEADER):
    """Write a table. Cells are separated by spaces here and by tabs in the file; - is an empty cell."""
    path = folder / "volumes.tsv"
    lines = ["\t".join("" if cell == "-" else cell for cell in row.split(" ")) for row in (header, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def fails(path, match, data_dir="data"):
    with pytest.raises(InputError, match=match) as caught:
        volumes.read_table(path, data_dir)
    assert str(path) in str(caught.value)


def test_rows_become_volumes_with_paths_in_data_dir(tmp_path):
    found = volumes.read_table(table(tmp_path, *ROWS), "data")
    assert found == [
        volumes.Volume("a", "data/raw.tif", "data/truth.tif", "0-3", "train"),
        volumes.Volume("b", "data/raw.tif", "data/truth.tif", "4", "validation"),
        volumes.Volume("c", "data/raw.tif", "data/truth.tif", "5-6,8", "test"),
        volumes.Volume("d", "data/raw.tif", None, "", "predict"),
    ]
    assert found[2].row == f"{tmp_path / 'volumes.tsv'}, line 4"


def test_absolute_paths_and_hdf5_datasets_are_kept(tmp_path):
    rows = ("a /else/where.h5:/raw /else/where.h5:/truth - train", "b x/b.tif y/b.tif - validation")
    first, second = volumes.read_table(table(tmp_path, *rows), "data")
    assert (first.images, first.annotation) == ("/else/where.h5:/raw", "/else/where.h5:/truth")
    assert (second.images, second.annotation) == ("data/x/b.tif", "data/y/b.tif")


def test_columns_may_have_any_order_and_optional_ones_may_be_missing(tmp_path):
    rows = ("train t.tif a i.tif", "validation t.tif b j.tif")
    first, second = volumes.read_table(table(tmp_path, *rows, header="split annotation volume images"), "")
    assert first == volumes.Volume("a", "i.tif", "t.tif", "", "train")
    assert second == volumes.Volume("b", "j.tif", "t.tif", "", "validation")


@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16"))
@pytest.mark.parametrize("end", ("\n", "\r\n", "\r"))
def test_tables_of_spreadsheets_and_editors(tmp_path, encoding, end):
    """Quotes, padding cells, spaces, comments, empty lines, byte order marks and any line end."""
    lines = [
        "# our volumes",
        "volume\timages\tannotation\tsections\tsplit\t\t",
        "",
        '"a"\t "Größe 1.tif" \tt.tif\t"0-1,3"\ttrain\t\t',
        "\t\t\t\t\t\t",
        "  # more",
        "b \tj.tif\tt.tif\t\t validation",
    ]
    (tmp_path / "volumes.tsv").write_bytes(end.join(lines).encode(encoding))
    first, second = volumes.read_table(tmp_path / "volumes.tsv", "")
    assert (first.volume, first.images, first.sections, first.split) == ("a", "Größe 1.tif", "0-1,3", "train")
    assert (second.volume, second.split) == ("b", "validation")
    assert (first.row[-6:], second.row[-6:]) == ("line 4", "line 7")


# --------------------------------------------------------------------------------------------------- mistakes


def test_missing_table(tmp_path):
    fails(tmp_path / "volumes.tsv", r"cannot be read \(No such file or directory\)\. Check `volumes:`")


@pytest.mark.parametrize("content", (b"", b"\n\r\n", b"# volume\timages\n", b"\xef\xbb\xbf"))
def test_empty_table(tmp_path, content):
    (tmp_path / "volumes.tsv").write_bytes(content)
    fails(
        tmp_path / "volumes.tsv",
        "table is empty. Write the names of the columns into its first line, separated by tab",
    )


def test_table_without_rows(tmp_path):
    fails(table(tmp_path), "the table contains no volumes. Add a line for each")


def test_a_workbook_is_not_a_table(tmp_path):
    (tmp_path / "volumes.tsv").write_bytes(b"PK\x03\x04\xff\xfe\xfd")
    fails(tmp_path / "volumes.tsv", "not a text file in UTF-8 .* in Excel, choose `Unicode Text`")


@pytest.mark.parametrize(
    ("header", "match"),
    (
        ("volume images anotation split", "unknown column `anotation`. Did you mean `annotation`"),
        ("Volume images split", "unknown column `Volume`. Did you mean `volume`"),
        ("volume images split comment", "unknown column `comment`. The columns are volume, images"),
        ("volume,images,annotation,sections,split", "Separate columns by tabs, not by commas"),
        ("volume images annotation", "no column `split` .found: volume, images, annotation"),
        ("volume split", "no column `images`"),
        ("volume images images split", "column `images` appears 2 times"),
    ),
)
def test_columns_that_are_unknown_missing_or_repeated(tmp_path, header, match):
    fails(table(tmp_path, "a b c", header=header), match)


@pytest.mark.parametrize(
    ("row", "match"),
    (
        (
            "a raw.tif truth.tif 0 training",
            "line 2, volume a: unknown `split` `training`. Did you mean train",
        ),
        ("a raw.tif truth.tif 0 Test", "unknown `split` `Test`. Did you mean test"),
        ("a raw.tif truth.tif 0 -", "unknown `split` ``. Choose one of train, validation, test, predict"),
        (
            "a raw.tif - 0 test",
            "line 2, volume a: the column `annotation` is empty, but `split` test needs one",
        ),
        ("a - truth.tif 0 train", "line 2, volume a: the column `images` is empty"),
        ("a raw.tif truth.tif 3-1 train", "line 2, volume a: sections `3-1`: 3-1 runs backwards"),
        ("a raw.tif truth.tif 03.Jan train", "line 2, volume a: .*formatted as text"),
        ("a raw.tif truth.tif 0 train more", "line 2: 6 cells, expected 5 .*exactly one tab"),
        ('a "raw.tif truth.tif 0 train', "line 2: found a quote mark .* without its pair"),
        *(
            (
                f"{name} raw.tif truth.tif 0 train",
                "line 2: the `volume` name `.*` is not a valid file name on all systems",
            )
            for name in ("../a", "a/b", ".a", "-", "a:b", "é", "_a", "a*", "{a}", "a\\b")
        ),
    ),
)
def test_mistakes_within_a_row_name_its_line(tmp_path, row, match):
    fails(table(tmp_path, row), match)


@pytest.mark.parametrize("name", ("a", "A"))
def test_duplicate_names_also_in_upper_and_lower_case(tmp_path, name):
    fails(
        table(tmp_path, *ROWS, f"{name} other.tif - - predict"),
        f"line 6: the volume {name} has the same name as a in .*line 2",
    )


@pytest.mark.parametrize(("missing", "others"), (("train", ROWS[1:]), ("validation", (ROWS[0], *ROWS[2:]))))
def test_training_and_validation_each_need_a_volume(tmp_path, missing, others):
    fails(table(tmp_path, *others), f"no volume has `split` {missing}, expected at least one")


@pytest.mark.parametrize(
    ("first", "second"), (("0-3", "3-5"), ("0-9", "4"), ("2", "0,2,4"), ("-", "7"), ("all", "-"))
)
def test_a_section_in_two_splits_is_a_leak(tmp_path, first, second):
    rows = (
        f"a raw.tif truth.tif {first} train",
        "b other.tif truth.tif - validation",
        f"c ./raw.tif truth.tif {second} test",
    )
    fails(table(tmp_path, *rows), r"line 4: volume c \(test\) shares sections of .* a \(train, .*line 2\)")


def test_a_section_in_two_splits_through_a_link_is_a_leak(tmp_path):
    (tmp_path / "raw.tif").write_bytes(b"")
    (tmp_path / "link.tif").symlink_to("raw.tif")
    rows = ("a raw.tif truth.tif - train", "b link.tif truth.tif - validation")
    fails(table(tmp_path, *rows), "shares sections", data_dir=tmp_path)


NO_LEAK = {
    "other sections": ("a raw.tif truth.tif 0-4 train", "b raw.tif truth.tif 5-8 validation"),
    "other datasets of one file": ("a raw.h5:/x raw.h5:/t - train", "b raw.h5:/y raw.h5:/t - validation"),
    "within one split": ("a i.tif t.tif 0-4 train", "b i.tif t.tif 2 train", "c j.tif t.tif - validation"),
    "not scored": ("a raw.tif truth.tif 0-4 train", "c j.tif t.tif - validation", "p raw.tif - - predict"),
}


@pytest.mark.parametrize("rows", NO_LEAK.values(), ids=NO_LEAK)
def test_sections_that_are_no_leak(tmp_path, rows):
    assert len(volumes.read_table(table(tmp_path, *rows), "")) == len(rows)


# ------------------------------------------------------------------------------------------------------ files


def files_for(folder, images=(9, 20, 30), annotation=(9, 20, 30)):
    tifffile.imwrite(folder / "raw.tif", np.zeros(images, np.uint8), photometric="minisblack")
    tifffile.imwrite(folder / "truth.tif", np.zeros(annotation, np.uint8), photometric="minisblack")
    return folder


def check(folder, *rows, **settings):
    volumes.check_files(volumes.read_table(table(folder, *rows), folder), **settings)


def test_files_that_fit_pass(tmp_path):
    check(files_for(tmp_path), *ROWS)


def test_missing_files_name_the_row(tmp_path):
    files_for(tmp_path)
    (tmp_path / "truth.tif").rename(tmp_path / "truth1.tif")
    with pytest.raises(InputError, match=r"line 2, volume a: .*truth\.tif: no such.*mean truth1\.tif"):
        check(tmp_path, *ROWS)


@pytest.mark.parametrize("annotation", ((8, 20, 30), (9, 21, 30), (9, 20, 29), (20, 30)))
def test_images_and_annotation_of_different_shape(tmp_path, annotation):
    files_for(tmp_path, annotation=annotation)
    match = (
        r"line 2, volume a: .*truth\.tif: the annotation has .*, but its .*raw\.tif have 9 sections of 20 x"
    )
    with pytest.raises(InputError, match=match):
        check(tmp_path, *ROWS)


def test_sections_out_of_range_name_the_row(tmp_path):
    files_for(tmp_path, images=(8, 20, 30), annotation=(8, 20, 30))
    with pytest.raises(InputError, match=r"line 4, volume c: .*`5-6,8`: there is no section 8, only 8"):
        check(tmp_path, *ROWS)


def test_the_number_of_channels_is_a_setting(tmp_path):
    files_for(tmp_path)
    tifffile.imwrite(tmp_path / "raw.tif", np.zeros((9, 20, 30, 3), np.uint8), photometric="rgb")
    check(tmp_path, *ROWS, channels=3)
    check(tmp_path, *ROWS, channels=1)  # if red, green and blue are equal, which headers do not tell
    with pytest.raises(InputError, match=r"line 2, volume a: .*RGB, 3 channels"):
        check(tmp_path, *ROWS, channels=2)


def test_only_headers_are_read(tmp_path):
    """The check accepts files with damaged pixels, because reading pixels would slow down a dry run."""
    files_for(tmp_path)
    for name in ("raw.tif", "truth.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((9, 20, 30), np.uint8), compression="zlib")
        with tifffile.TiffFile(tmp_path / name) as tiff:
            offset = tiff.pages[0].dataoffsets[0]
        with open(tmp_path / name, "r+b") as file:
            file.seek(offset)
            file.write(b"\0" * 10)
    check(tmp_path, *ROWS)


@needs_data
@pytest.mark.parametrize("name", ("isbi2012", "nuclei"))
def test_the_tables_of_the_real_data_match_the_data(name):
    path = Path(__file__).parents[1] / f"config/{name}.tsv"
    found = volumes.read_table(path, DATA)
    volumes.check_files(found)
    assert {v.split for v in found} >= {"train", "validation", "test"}


def test_images_of_different_types_raise_an_error(tmp_path):
    for name, dtype in (("a", np.uint8), ("b", np.uint16)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 8), dtype))
    paths = {name: str(tmp_path / f"{name}.tif") for name in "ab"}
    rows = [volumes.Volume(name, paths[name], None, "", "predict", f"line {name}") for name in "ab"]
    volumes.check_files(rows[:1])
    with pytest.raises(
        InputError, match=r"line b, volume b: .*b\.tif: found uint16 gray levels, but .* has uint8"
    ):
        volumes.check_files(rows)


@pytest.mark.parametrize(
    ("first", "second", "factor"),
    [
        ("uint8", "float32", "255 if 1 here means 255 there, or 1 if"),
        (
            "uint8",
            "uint16",
            r"0\.00389105 if 65535 here means 255 there, 0\.0622711 if 4095 here means 255 there, or 1",
        ),
        (
            "uint16",
            "uint8",
            r"257 if 255 here means 65535 there, 16\.0588 if 255 here means 4095 there, or 1 if",
        ),
        ("float32", "float64", r"1\."),
        ("int16", "uint16", r"32768 if 32768 here means 0 there\. Write 1 into `scale` if"),
        ("uint16", "int16", r"-32768 if -32768 here means 0 there\. Write 1 into `scale` if"),
    ],
)
def test_images_with_a_scale_may_have_another_type(tmp_path, first, second, factor):
    rows = []
    for name, dtype in (("a", first), ("b", second)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((9, 8), dtype))
        rows.append(volumes.Volume(name, str(tmp_path / f"{name}.tif"), None, "", "predict", name))
    with pytest.raises(InputError, match=rf"column `(scale|offset)` of the table of volumes: {factor}"):
        volumes.check_files(rows)
    for number, column in ((0, "scale"), (1, "scale"), (1, "offset")):
        scaled = [replace(row, dataset={column: "1"}) if row is rows[number] else row for row in rows]
        assert [*volumes.check_files(scaled)] == ["a", "b"]
    assert [*volumes.check_files(rows, scale=1.0)] == ["a", "b"]
    scaled = [replace(rows[0], dataset={"scale": "1"}), *rows, rows[0]]
    with pytest.raises(InputError, match=r"^b, volume b: .*the same type and gray scale"):
        volumes.check_files(scaled)  # the first volume has a scale, the others differ


NAMES = [f"volume_{number:04}" for number in range(1000)]


def test_a_batch_ends_when_it_is_full_or_its_group_ends():
    large = volumes.BATCH // 2
    groups = {"a": large, "b": large, "c": large}, {"d": 1}, {"e": 3 * volumes.BATCH, "f": 1}
    found = list(volumes.batches(*groups).values())
    assert [name for batch in found for name in batch] == list("abcdef")
    assert all(sum((name in group) for group in groups for name in batch[:1]) == 1 for batch in found)
    assert not any(pair <= {*batch} for batch in found for pair in ({"c", "d"}, {"d", "e"}, {"e", "f"}))
    assert not any({"a", "b", "c"} <= {*batch} for batch in found)


def test_a_thousand_small_volumes_make_a_few_batches_in_the_order_of_the_table():
    found = list(volumes.batches(dict.fromkeys(NAMES, 512**2)).values())
    assert [name for batch in found for name in batch] == NAMES
    assert 5 <= len(found) <= 40
    assert max(map(len, found)) * 512**2 <= volumes.BATCH


@pytest.mark.parametrize("side", [64, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("position", [0, 300, 999])
def test_adding_or_removing_a_row_changes_few_batches(side, position):
    pixels = dict.fromkeys(NAMES, side**2)
    without = {name: size for name, size in pixels.items() if name != NAMES[position]}
    before, after = ({tuple(batch) for batch in volumes.batches(p).values()} for p in (pixels, without))
    assert len(before - after) <= 3 < len(before & after)


def test_new_volumes_are_in_new_batches_and_the_earlier_ones_stay():
    pixels = dict.fromkeys(NAMES[:200], 64**2)
    before = [*volumes.batches(pixels).values()]
    for where in (0, 100, 200):  # the position of the new rows in the table does not matter
        names = [*NAMES[:where], "new", *NAMES[where:200], "newer"]
        after = [*volumes.batches(dict.fromkeys(names, 64**2), earlier=before).values()]
        assert after == [*before, ["new", "newer"]]
    fewer = {name: size for name, size in pixels.items() if name != before[1][0]}
    after = [*volumes.batches(fewer, earlier=before).values()]  # only this batch is made again
    assert after[: len(before) - 1] == [before[0], *before[2:]]
    assert sorted(name for batch in after for name in batch) == sorted(fewer)


def test_a_trained_model_needs_no_training_rows_and_allows_none(tmp_path):
    header = "volume\timages\tannotation\tsections\tsplit\n"
    (tmp_path / "v.tsv").write_text(f"{header}a\ta.tif\t\t\tpredict\nb\tb.tif\t\t\tpredict\n")
    assert [row.volume for row in volumes.read_table(tmp_path / "v.tsv", ".", needed=())] == ["a", "b"]
    with pytest.raises(InputError, match="no volume has `split` train"):
        volumes.read_table(tmp_path / "v.tsv", ".")
    (tmp_path / "v.tsv").write_text(f"{header}a\ta.tif\t\t\tpredict\nb\tb.tif\tc.tif\t\ttrain\n")
    with pytest.raises(InputError, match="line 3: `split` is train, but the config names a trained `model`"):
        volumes.read_table(tmp_path / "v.tsv", ".", needed=())


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=3)


@given(st.lists(st.tuples(RANGES, st.sampled_from(volumes.SPLITS[:3])), max_size=6))
def test_sections_in_two_splits_are_found_like_by_comparing_all_rows(rows):
    sets, found = [], []
    for number, (ranges, split) in enumerate(rows):
        chosen = sorted({z for start, more in ranges for z in range(start, start + more + 1)})
        sets.append(set(chosen or range(1000)))
        text = ",".join(map(str, chosen))
        found.append(volumes.Volume(f"v{number}", "x.tif", "y.tif", text, split, f"row {number}"))
    splits = [split for _, split in rows]
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(rows)), 2)
        if splits[a] != splits[b] and sets[a] & sets[b]
    ]
    if not pairs:
        return volumes._check_splits_disjoint(found)
    with pytest.raises(InputError) as caught:
        volumes._check_splits_disjoint(found)
    expected = (
        f"row {b}: volume v{b} ({splits[b]}) shares sections of x.tif with volume v{a} ({splits[a]}, row {a})"
        for a, b in pairs
    )
    assert str(caught.value).startswith(tuple(expected))


def test_thousands_of_rows_of_one_file_are_compared_quickly():
    rows = [volumes.Volume("a", "x.tif", "y.tif", str(n), volumes.SPLITS[n % 3]) for n in range(20_000)]
    volumes._check_splits_disjoint(rows)


@pytest.mark.parametrize("second", ("0-3", "4", "0"))
def test_a_short_row_of_a_split_does_not_hide_the_end_of_a_longer_one(tmp_path, second):
    rows = (
        "a raw.tif truth.tif 0-9 train",
        f"b raw.tif truth.tif {second} train",
        "c raw.tif truth.tif 8-12 validation",
    )
    fails(table(tmp_path, *rows), r"line 4: volume c \(validation\) shares sections of .* a \(train")


def test_rows_that_begin_where_others_end_are_no_leak(tmp_path):
    header = f"{HEADER} rows"
    rows = ("a raw.tif truth.tif - train 0-127", "b raw.tif truth.tif - validation 128-255")
    assert len(volumes.read_table(table(tmp_path, *rows, header=header), "")) == 2
    overlap = (rows[0], "b raw.tif truth.tif - validation 127-255")
    fails(table(tmp_path, *overlap, header=header), "shares rows of")


def test_a_mask_without_an_annotation_and_placeholders_in_paths_are_refused(tmp_path):
    rows = (*ROWS[:2], "p other.tif - - predict mask.tif")
    fails(
        table(tmp_path, *(f"{row} -" for row in rows[:2]), rows[2], header=f"{HEADER} ignore_mask"), "is set"
    )
    for name in ("a{b.tif", "a}b.tif", "a<b.tif", "a>b.tif"):
        fails(table(tmp_path, *ROWS, f"e {name} - - predict"), "reads as a placeholder")


def test_a_slice_of_a_folder_in_another_split_is_a_leak(tmp_path):
    for folder in ("slices", "truth"):
        (tmp_path / folder).mkdir()
        for z in range(3):
            tifffile.imwrite(tmp_path / folder / f"{z}.tif", np.full((20, 30), z, np.uint8))
    rows = ("a slices truth - train", "b slices/2.tif truth/2.tif - validation")
    with pytest.raises(InputError, match=r"volume b \(validation\) shares sections of .*volume a \(train"):
        check(tmp_path, *rows)


def test_volumes_with_different_numbers_of_chosen_channels_are_refused(tmp_path):
    files_for(tmp_path)
    tifffile.imwrite(tmp_path / "raw.tif", np.zeros((9, 20, 30, 3), np.uint8), photometric="rgb")
    channels = {"a": [0, 1], "b": [0], "c": [1, 2], "d": [0, 1]}
    with pytest.raises(InputError, match=r"line 3, volume b: `channels` chooses 1 of .*, but 2 for volume a"):
        check(tmp_path, *ROWS, channels=channels)
    check(tmp_path, *ROWS, channels=channels | {"b": [2, 0]})
