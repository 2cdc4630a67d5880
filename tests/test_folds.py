"""Folds of a cross-validation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.data.folds import ANNOTATED, divide
from pipeline_lib.data.volumes import Volume
from pipeline_lib.imageio import parse_sections
from pipeline_lib.imageio.naming import sections_text
from pipeline_lib.runtime.errors import InputError


def volume(name, images="a.tif", sections="", split="train", rows=""):
    return Volume(name, images, "labels.tif", sections, split, rows=rows)


def test_volumes_are_divided_into_contiguous_blocks():
    volumes = [volume(f"v{k}", f"{k}.tif") for k in range(7)] + [volume("held", "h.tif", split="test")]
    found = divide(volumes, {row.volume: 2 for row in volumes}, 3)
    assert found.names == [["v0", "v1", "v2"], ["v3", "v4"], ["v5", "v6"]]
    assert [piece.volume.split for piece in found.pieces] == ["validation"] * 3 + ["train"] * 4 + ["test"]
    assert found.unused == {}


def test_an_adjacent_volume_of_the_same_file_loses_its_first_section():
    rows = [
        volume("train", sections="0-11"),
        volume("validation", sections="12-19", split="validation"),
        volume("test", sections="24-29", split="test"),
    ]
    found = divide(rows, {"train": 12, "validation": 8, "test": 6}, 2)
    sections = {piece.volume.volume: piece.volume.sections for piece in found.pieces}
    assert sections == {"train": "0-11", "validation": "13-19", "test": "24-29"}
    assert found.unused == {"validation": [12]}
    assert found.described()[-1] == "in no fold, because they are next to one: sections validation 12"


def test_no_fold_has_less_than_half_of_its_share():
    """As in the table of ISBI 2012: with whole volumes, the network of fold 0 would learn from 4 sections."""
    rows = [volume("train", sections="0-19"), volume("validation", sections="20-23", split="validation")]
    found = divide(rows, {"train": 20, "validation": 4}, 2)
    assert {piece.volume.volume: piece.volume.sections for piece in found.pieces} == {
        "train-fold0": "0-11",
        "train-fold1": "13-19",
        "validation": "20-23",
    }
    assert found.names == [["train-fold0"], ["train-fold1", "validation"]]
    large = [volume(f"v{k}", f"{k}.tif") for k in range(5)]
    lengths = {"v0": 1, "v1": 1, "v2": 7, "v3": 1, "v4": 8}
    assert divide(large, lengths, 2).names == [["v0", "v1", "v2"], ["v3", "v4"]]


def test_parts_of_one_section_cannot_be_in_two_folds():
    rows = [volume("top", rows="0-99"), volume("bottom", rows="100-199")]
    with pytest.raises(InputError, match=r"parts of section 0 of .*a.tif would be in the folds 0, 1"):
        divide(rows, {"top": 1, "bottom": 1}, 2)


def test_a_part_of_a_volume_needs_a_name_of_its_own():
    rows = [volume("a"), volume("a-fold1", "b.tif", split="test")]
    with pytest.raises(InputError, match="a part of the volume a would be called a-fold1, as another volume"):
        divide(rows, {"a": 9, "a-fold1": 1}, 3)


def test_too_few_sections():
    with pytest.raises(InputError, match="2 annotated sections are too few for 2 folds, because fold 1 has"):
        divide([volume("a")], {"a": 2}, 2)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    files=st.integers(1, 3),
    number=st.integers(2, 5),
)
def test_folds_are_disjoint_and_never_neighbours(lengths, files, number):
    """Every section of every fold, against those of all other folds."""
    start = dict.fromkeys(range(files), 0)
    rows = []
    for k, length in enumerate(lengths):
        file = k % files
        first = start[file]
        start[file] += length
        sections = f"{first}-{first + length - 1}"
        rows.append(volume(f"v{k}", f"{file}.tif", sections, ANNOTATED[k % 2]))
    try:
        found = divide(rows, {row.volume: n for row, n in zip(rows, lengths, strict=True)}, number)
    except InputError as error:
        assert "too few" in str(error)
        return
    by_name = {piece.volume.volume: piece.volume for piece in found.pieces}
    places = [
        [(by_name[name].images, z) for name in own for z in parse_sections(by_name[name].sections, 10**6)]
        for own in found.names
    ]
    every = [place for own in places for place in own]
    assert all(places) and len({*every}) == len(every)
    for fold, own in enumerate(places):
        others = {place for other, theirs in enumerate(places) if other != fold for place in theirs}
        assert not {(file, z + step) for file, z in own for step in (-1, 0, 1)} & others
    whole = {(row.images, z) for row in rows for z in parse_sections(row.sections, 10**6)}
    unused = {(row.images, z) for row in rows for z in found.unused.get(row.volume, ())}
    assert {*every} | unused == whole and not {*every} & unused
    # a section is left out only for a neighbour in an earlier fold
    assert len(unused) <= len(rows) + number
    assert {piece.volume.volume: piece.numbers for piece in found.pieces} == {
        name: parse_sections(row.sections, 10**6) for name, row in by_name.items()
    }


@given(st.sets(st.integers(0, 30), min_size=1))
def test_section_numbers_sections_text(numbers):
    assert parse_sections(sections_text(sorted(numbers)), 31) == sorted(numbers)
