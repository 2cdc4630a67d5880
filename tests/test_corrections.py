"""Corrections: which crops are suggested, what is written, and what is accepted."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import cli, imageio
from pipeline_lib.corrections import accepting, files, suggesting
from pipeline_lib.corrections.accepting import accept
from pipeline_lib.corrections.ranking import (
    REACH,
    Place,
    choose_places,
    places_of,
    random_places,
    starts,
    uncertain_outlines,
)
from pipeline_lib.data.volumes import read_table
from pipeline_lib.imageio import open_annotation
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.pages.before import compare_runs
from pipeline_lib.pages.scores import Score
from pipeline_lib.runtime.errors import InputError
from tests.test_apply import folder  # noqa: F401 -- a small complete model and two images

# ranking


@given(
    arrays(np.uint8, (7, 9), elements=st.integers(0, 2)),
    arrays(np.float32, (7, 9), elements=st.floats(0, 1, width=32)),
)
def test_only_pixels_near_an_outline_are_uncertain(labels, probability):
    found = uncertain_outlines(probability, labels)
    for y, x in np.ndindex(labels.shape):
        around = labels[
            max(y - REACH, 0) : y + REACH + 1,
            max(x - REACH, 0) : x + REACH + 1,
        ]
        p = probability[y, x]
        if (around == labels[y, x]).all():
            assert found[y, x] == 0
        else:
            assert found[y, x] in (0, pytest.approx(4 * p * (1 - p), abs=1e-5))
        for v, u in ((y + 1, x), (y, x + 1)):  # both sides of an outline count
            if v < 7 and u < 9 and labels[v, u] != labels[y, x]:
                assert found[y, x] == pytest.approx(4 * p * (1 - p), abs=1e-5)


@given(st.integers(1, 60), st.integers(1, 20))
def test_parts_cover_an_axis(length, size):
    found = starts(length, size)
    assert found == sorted({*found}) and found[0] == 0
    assert found[-1] == max(length - size, 0)
    assert all(b - a <= max(size // 2, 1) for a, b in pairwise(found))


@given(arrays(np.float64, (4, 11), elements=st.floats(0, 1)), st.integers(2, 6))
def test_scores_are_means_over_the_parts(band, size):
    for place in places_of("a", 3, 8, {"one": band, "none": np.zeros_like(band)}, size):
        assert place.score == pytest.approx(band[:, place.x : place.x + size].mean(), abs=1e-9)
        assert (place.image, place.section, place.y) == ("a", 3, 8)
        assert place.reason == "one" or place.score == 0


places = st.lists(
    st.builds(
        Place,
        st.sampled_from("ab"),
        st.integers(0, 2),
        st.integers(0, 30),
        st.integers(0, 30),
        st.floats(0, 1),
        st.just("r"),
    ),
    max_size=25,
)


@given(places, st.integers(0, 8), st.integers(1, 12), st.integers(0, 3))
def test_chosen_places_do_not_overlap_and_the_best_is_first(candidates, number, size, seed):
    for chosen in (
        choose_places(candidates, number, size),
        random_places(candidates, number, size, seed),
    ):
        assert len(chosen) <= number
        for k, one in enumerate(chosen):
            for other in chosen[:k]:
                apart = max(abs(one.y - other.y), abs(one.x - other.x)) >= size
                assert apart or one[:2] != other[:2]
    best = choose_places(candidates, number, size)
    if best:
        assert best[0].score == max(place.score for place in candidates)
        if len(best) < number:  # every place that is left overlaps a chosen one
            for place in candidates:
                assert any(
                    place[:2] == one[:2] and abs(place.y - one.y) < size and abs(place.x - one.x) < size
                    for one in best
                )
    assert random_places(candidates, number, size, seed) == random_places(candidates, number, size, seed)


def test_other_sections_come_before_another_place_of_the_same_one():
    same = [Place("a", 0, y, 0, 0.9 - y / 1000, "") for y in (0, 50, 100)]
    other = [Place("a", 1, 0, 0, 0.5, ""), Place("b", 0, 0, 0, 0.3, "")]
    chosen = choose_places([*same, *other], 4, 10)
    assert [(place.image, place.section) for place in chosen] == [("a", 0), ("a", 1), ("a", 0), ("b", 0)]


# files

ROOT = Path(__file__).parents[1]


def suggest(folder, out, *more):  # noqa: F811
    words = ["suggest", str(folder / "model.pt"), str(folder / "a.tif"), str(folder / "b.tif")]
    return cli.main([*words, "--out", str(out), "--device", "cpu", "--crops", "3", "--size", "24", *more])


@pytest.fixture
def made(folder, tmp_path, capsys):  # noqa: F811
    """A round of three crops, and the config and table of the run before."""
    assert suggest(folder, tmp_path / "round1") == 0
    (tmp_path / "volumes.tsv").write_text(
        "volume\timages\tannotation\tsplit\tpixel_size\n"
        f"old\t{folder}/a.tif\t{folder}/b.tif\ttrain\t0.5\nvalid\t{folder}/b.tif\t{folder}/a.tif\tvalidation\t\n"
    )
    config = {
        "volumes": "volumes.tsv",
        "data_dir": str(tmp_path),
        "results": "results",
        "training": {"iterations": 7},
        "report": {"title": "T"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def mark(made, *crops, word="yes"):
    path = made / "round1" / files.TODO
    table = pd.read_csv(path, sep="\t", dtype={"done": str})
    table.loc[table.crop.isin(crops), "done"] = word
    table.to_csv(path, sep="\t", index=False)


def crops_of(made):
    return pd.read_csv(made / "round1" / files.TODO, sep="\t").crop.tolist()


def test_crops_are_parts_of_the_images_with_their_context(folder, made):  # noqa: F811
    todo = pd.read_csv(made / "round1" / files.TODO, sep="\t")
    assert todo.columns.tolist() == files.COLUMNS and todo["rank"].tolist() == [1, 2, 3]
    assert todo.done.tolist() == ["no"] * 3 and {*todo.image} == {"a", "b"}
    margin = describe(folder / "model.pt")["context"]
    assert margin > 0
    for row in todo.itertuples():
        whole = tifffile.imread(folder / f"{row.image}.tif")
        found = np.squeeze(tifffile.imread(made / f"round1/.predicted/{row.image}_labels.tif"))
        image = np.squeeze(tifffile.imread(made / f"round1/images/{row.crop}.tif"))
        labels = np.squeeze(tifffile.imread(made / f"round1/labels/{row.crop}.tif"))
        y, x = max(row.y - margin, 0), max(row.x - margin, 0)
        np.testing.assert_array_equal(image, whole[y : row.y + 24 + margin, x : row.x + 24 + margin])
        assert labels.shape == image.shape and labels.dtype == np.uint16
        inside = np.zeros(labels.shape, bool)
        inside[row.y - y : row.y - y + row.height, row.x - x : row.x - x + row.width] = True
        assert (labels[~inside] == files.NOT_ANNOTATED).all()
        expected = found[row.y : row.y + row.height, row.x : row.x + row.width]
        own = labels[inside].reshape(expected.shape)
        np.testing.assert_array_equal(own > 0, expected > 0)
        values = np.unique(expected[expected > 0])
        np.testing.assert_array_equal(np.append(0, values)[own], expected)


def test_the_same_command_chooses_the_same_and_chance_is_seeded(folder, made, tmp_path):  # noqa: F811
    assert suggest(folder, tmp_path / "again") == 0
    first, second = ((at / files.TODO).read_text() for at in (made / "round1", tmp_path / "again"))
    assert first == second
    for name, seed in (("r0", 0), ("r0b", 0), ("r1", 1)):
        assert suggest(folder, tmp_path / name, "--random", str(seed)) == 0
    texts = [(tmp_path / name / files.TODO).read_text() for name in ("r0", "r0b", "r1")]
    assert texts[0] == texts[1] != texts[2] and "random" in texts[0]


def test_an_existing_folder_is_not_overwritten(folder, made, capsys):  # noqa: F811
    assert suggest(folder, made / "round1") == 1
    assert "exists, and is not overwritten" in capsys.readouterr().err


def test_accepted_crops_become_rows_and_the_run_starts_from_the_model(
    folder,  # noqa: F811
    made,
    capsys,
    monkeypatch,
):
    monkeypatch.chdir(made)
    (made / "results").mkdir()
    (made / "results/scores.csv").touch()
    first, second, _ = crops_of(made)
    mark(made, first, second)
    path = made / f"round1/labels/{first}.tif"
    labels = np.squeeze(tifffile.imread(path))
    y, x = np.argwhere(labels == 0)[0]
    labels[y, x] = labels[labels < files.NOT_ANNOTATED].max() + 1
    tifffile.imwrite(path, labels)
    assert cli.main(["accept", str(made / "round1"), str(made / "config.yaml")]) == 0
    said = capsys.readouterr().out
    assert "2 crops accepted" in said and f"{second}: the labels were not changed" in said
    table = read_table(made / "volumes-round1.tsv", made)
    assert [row.volume for row in table] == ["old", "valid", f"round1_{first}", f"round1_{second}"]
    assert table[0].dataset == {"pixel_size": "0.5"}
    row = table[2]
    assert row.split == "train" and row.images.endswith(f"round1/images/{first}.tif")
    assert row.dataset == {
        "annotation_kind": "instances",
        "background": "0",
        "ignore": "65535",
        "empty_sections": "background",
    }
    with open_annotation(row.annotation, kind="instances", background=0, ignore=65535) as found:
        height, width = found.shape[1:]
        ignored = found.read_ignore(0, slice(0, height), slice(0, width))
        np.testing.assert_array_equal(ignored > 0, labels == files.NOT_ANNOTATED)
    config = yaml.safe_load((made / "config-round1.yaml").read_text())
    assert config == {
        "volumes": "volumes-round1.tsv",
        "data_dir": str(made),
        "results": "results-round1",
        "training": {"iterations": 7, "start_from": str(folder / "model.pt"), "learning_rate": 0.0003},
        "report": {"title": "T", "before": "results"},
    }
    with pytest.raises(InputError, match=r"volumes-round1\.tsv: exists"):
        accept(made / "round1", made / "config.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[1:], r"is \d+ x \d+ px, expected"),
        (lambda labels: np.where(labels == 0, -1, labels.astype(np.int32)), "has the value -1"),
        (lambda labels: labels.astype(np.int32) + 1, "has the value 65536"),
        (lambda labels: labels + np.float32(0.5), "has fractions"),
        (lambda labels: np.where(labels == 0, np.inf, labels.astype(np.float32)), "infinite values"),
        (lambda labels: np.minimum(labels, 255).astype(np.uint8), "margin has lost .*: most of it is 255"),
        (lambda labels: np.where(labels == files.NOT_ANNOTATED, 0, labels), "margin has lost .* is 0, and"),
        (lambda labels: np.full_like(labels, files.NOT_ANNOTATED), "nothing is annotated"),
        (lambda labels: np.stack([labels] * 5), r"has the shape \(5, 32, 32\)"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(made, change, message):
    crop = crops_of(made)[0]
    mark(made, crop)
    path = made / f"round1/labels/{crop}.tif"
    tifffile.imwrite(path, change(np.squeeze(tifffile.imread(path))))
    with pytest.raises(InputError, match=message):
        accept(made / "round1", made / "config.yaml")
    assert not [*made.glob("*-round1.*")]


def test_slips_of_the_brush_are_reported(made):
    crop = crops_of(made)[0]
    mark(made, crop)
    path = made / f"round1/labels/{crop}.tif"
    labels = np.squeeze(tifffile.imread(path))
    inside = np.argwhere(labels < files.NOT_ANNOTATED)
    labels[labels < files.NOT_ANNOTATED] = 0
    (y, x), (v, u) = inside[0], inside[-1]
    labels[y : y + 5, x : x + 5] = labels[v, u] = 9
    tifffile.imwrite(path, labels)
    note = accept(made / "round1", made / "config.yaml").notes[0]
    assert f"cell 9 has 2 parts, the smallest with 1 px at y {v}, x {u}: a slip" in note


def test_nothing_done_and_unclear_words_are_refused(made):
    with pytest.raises(InputError, match="no crop is done"):
        accept(made / "round1", made / "config.yaml")
    mark(made, crops_of(made)[0], word="perhaps")
    with pytest.raises(InputError, match=r"has `done` perhaps\. Write yes or no"):
        accept(made / "round1", made / "config.yaml")
    with pytest.raises(InputError, match="so it is no round of corrections"):
        accept(made, made / "config.yaml")


def test_a_changed_model_is_refused(folder, made):  # noqa: F811
    mark(made, crops_of(made)[0])
    stored = files.read_round(made / "round1")
    (made / "round1" / files.ROUND).write_text(json.dumps(stored | {"sha256": 64 * "0"}))
    with pytest.raises(InputError, match="is missing or has changed"):
        accept(made / "round1", made / "config.yaml")


# before and after


def scores(values):
    rows = [("a", "seg", values[0]), ("b", "seg", values[1]), ("a", "pixel_error", values[2])]
    return pd.DataFrame(rows, columns=["volume", "metric", "value"])


def test_changes_are_judged_by_the_spread_of_the_seeds():
    names = [Score("seg", "SEG", True, ""), Score("pixel_error", "Pixel error", False, "")]
    before, after = scores([0.6, 0.8, 0.2]), scores([0.7, 0.9, 0.3])
    after.loc[len(after)] = "c", "seg", 0.0  # a volume that the run before did not have
    found = compare_runs(before, after, names, [{"seg": 0.01, "pixel_error": 0.2}, {"seg": 0.04}])
    assert (found.volumes, found.left_out) == (["a", "b"], ["c"])
    seg, pixel_error = found.changes
    assert (seg.before, seg.after, seg.gain) == pytest.approx((0.7, 0.8, 0.1))
    assert (seg.deviation, seg.verdict) == (0.04, "better")
    assert pixel_error.gain == pytest.approx(-0.1) and pixel_error.verdict == "within chance"
    assert compare_runs(after, before, names[:1], [{"seg": 0.01}]).changes[0].verdict == "worse"
    assert {change.verdict for change in compare_runs(before, after, names).changes} == {"chance unknown"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("word", ["WAHR", "ja", "1.0", "Oui "])
def test_lists_of_spreadsheets_are_read(made, encoding, word):
    first, *_ = crops_of(made)
    mark(made, first, word=word)
    path = made / "round1" / files.TODO
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert accept(made / "round1", made / "config.yaml").crops == [first]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda round1: (round1 / files.TODO).write_text(""), "cannot be read as a table"),
        (lambda round1: (round1 / files.ROUND).write_text("{"), "is damaged.* suggest again"),
        (lambda round1: (round1 / files.ROUND).write_text("{}"), "is damaged"),
        (lambda round1: shutil.rmtree(round1 / files.PREDICTED), "with hidden files"),
        (lambda round1: shutil.rmtree(round1 / files.IMAGES), r"images/.* is missing"),
        (lambda round1: next((round1 / files.LABELS).iterdir()).write_bytes(b"II*"), "cannot be read"),
    ],
)
def test_damaged_rounds_are_refused(made, damage, message):
    mark(made, *crops_of(made))
    damage(made / "round1")
    with pytest.raises(InputError, match=message):
        accept(made / "round1", made / "config.yaml")
    assert not (made / "volumes-round1.tsv").exists()


def test_a_crop_with_two_rows_is_refused(made):
    path = made / "round1" / files.TODO
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match="has two rows"):
        accept(made / "round1", made / "config.yaml")


@pytest.mark.parametrize("key", ["model", "drawing"])
def test_configs_that_do_not_train_on_images_are_refused(made, key):
    mark(made, crops_of(made)[0])
    config = made / "config.yaml"
    config.write_text(config.read_text() + f"{key}: x\n")
    with pytest.raises(InputError, match=f"has the key `{key}`"):
        accept(made / "round1", config)


def test_names_sections_and_folders_of_any_kind(folder, made, monkeypatch):  # noqa: F811
    """Spaces and umlauts, empty sections of the config, a link as `data_dir`, chosen channels."""
    own = made / "corr \u00e4/round (1)"
    shutil.copy(folder / "a.tif", made / "Zellen \u00e4 1.tif")
    words = ["suggest", str(folder / "model.pt"), str(made / "Zellen \u00e4 1.tif"), "--out", str(own)]
    assert cli.main([*words, "--device", "cpu", "--crops", "1", "--size", "24"]) == 0
    todo = own / files.TODO
    todo.write_text(todo.read_text().replace("\tno\t", "\tyes\t"))
    (made / "deep/data").mkdir(parents=True)
    (made / "link").symlink_to(made / "deep/data")
    config = yaml.safe_load((made / "config.yaml").read_text())
    config |= {"report": None, "training": None, "results": "results/", "data_dir": str(made / "link")}
    (made / "config.yaml").write_text(yaml.safe_dump(config | {"dataset": {"channels": [1]}}))
    monkeypatch.chdir(own)
    found = accept(".", made / "config.yaml")
    assert (found.table.name, found.config.name) == ("volumes-round_1.tsv", "config-round_1.yaml")
    assert yaml.safe_load(found.config.read_text())["results"] == "results-round_1"
    row = read_table(found.table, made / "link")[2]
    assert re.fullmatch(r"round_1_01_Zellen_1_z000_y\d{4}_x\d{4}", row.volume)
    assert Path(row.images).exists() and Path(row.annotation).exists()
    assert row.dataset["channels"] == "[0]"


def test_a_damaged_image_does_not_stop_the_others(folder, tmp_path, caplog):  # noqa: F811
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    words = ["suggest", str(folder / "model.pt"), str(tmp_path / "broken.tif"), "--out", str(tmp_path / "r")]
    words += ["--device", "cpu", "--crops", "3", "--size", "24"]
    assert cli.main(words) == 1
    words.insert(3, str(folder / "a.tif"))
    assert cli.main(words) == 0  # the folder has only hidden files, as that of a command that was stopped
    assert "broken.tif are suggested: it cannot be segmented" in caplog.text
    assert {*pd.read_csv(tmp_path / "r" / files.TODO, sep="\t").image} == {"a"}


@pytest.mark.parametrize("option", [["--size", "0"], ["--size", "-5"], ["--crops", "0"], ["--random", "-3"]])
def test_numbers_that_make_no_sense_are_refused(folder, tmp_path, option, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        suggest(folder, tmp_path / "round1", *option)
    assert "expected a whole number of at least" in capsys.readouterr().err
    assert not (tmp_path / "round1").exists()


def test_crops_have_the_gray_levels_of_their_images_and_folds_start_from_the_beginning(made):
    mark(made, crops_of(made)[0])
    config = yaml.safe_load((made / "config.yaml").read_text())
    config |= {"dataset": {"scale": 0.5, "offset": 3}, "folds": 2}
    (made / "config.yaml").write_text(yaml.safe_dump(config))
    found = accept(made / "round1", made / "config.yaml")
    row = read_table(found.table, made)[-1]
    assert (row.dataset["scale"], row.dataset["offset"]) == ("1", "0")
    assert "start_from" not in yaml.safe_load(found.config.read_text()).get("training", {})
    assert any("learned from images of other folds" in note for note in found.notes)


def test_only_the_first_round_lowers_the_learning_rate(made):
    mark(made, crops_of(made)[0])
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    stated = schema["properties"]["training"]["properties"]["learning_rate"]["default"]
    assert stated == accepting.DEFAULT_RATE
    config = yaml.safe_load((made / "config.yaml").read_text())
    for training, expected in (
        ({"learning_rate": 0.002}, 0.0006),
        ({"learning_rate": 0.002, "start_from": "old.pt"}, 0.002),
    ):
        (made / "config.yaml").write_text(yaml.safe_dump(config | {"training": training}))
        found = accept(made / "round1", made / "config.yaml")
        assert yaml.safe_load(found.config.read_text())["training"]["learning_rate"] == expected
        assert any("instead of 0.002" in note for note in found.notes) == (expected != 0.002)
        found.config.unlink()
        found.table.unlink()


@pytest.mark.parametrize("channels", [1, 2])
def test_crops_keep_pixels_and_pixel_size(tmp_path, channels):
    image = np.arange(channels * 30 * 40, dtype=np.uint16).reshape(channels, 30, 40)
    imageio.write_channels(tmp_path / "a.tif", image, pixel_size=(0.5, 0.25))
    imageio.write_labels(tmp_path / "a_labels.tif", np.ones((1, 30, 40), np.uint16))
    place = Place(image="a", section=0, y=8, x=16, score=1.0, reason="uncertain")
    row = suggesting._write_crop(tmp_path, tmp_path, tmp_path / "a.tif", 1, place, 16, 4, channels)
    with imageio.open_images(tmp_path / f"images/{row['crop']}.tif", channels=channels) as crop:
        assert crop.info.pixel_size == (0.5, 0.25)
        found = crop.read(0, slice(0, 24), slice(0, 24))
    np.testing.assert_array_equal(found, image[:, 4:28, 12:36])
