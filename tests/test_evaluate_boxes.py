"""`bordure evaluate` compares boxes in files of any program."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
import tifffile

from pipeline_lib import api, layout, metrics
from pipeline_lib.cli import main
from pipeline_lib.imageio.boxes import SectionBoxes, read_pair, write_detections
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.detection.found import Found
from pipeline_lib.tasks.detection.truth import BoxTruth
from tests.box_datasets import add_boxes

SIZES = {"a": (60, 80), "b": (60, 80), "c": (40, 50)}  # height, width
CLASSES = ["nucleus", "mitosis"]


def drawn(seed=0):
    """Return boxes (y0, x0, y1, x1), classes and scores of true and found objects of each image."""
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for name, (height, width) in SIZES.items():
        corner = rng.integers(0, [height - 12, width - 12], (9, 2))
        boxes = np.hstack([corner, corner + rng.integers(5, 12, (9, 2))]).astype(float)
        kinds = rng.integers(0, 2, 9)
        truth[name] = boxes, kinds, np.full(9, np.nan)
        near = rng.integers(0, 9, 12)
        moved = boxes[near] + rng.integers(-1, 2, (12, 4))
        moved = moved.clip(0, [height, width] * 2)
        changed = np.where(rng.random(12) < 0.8, kinds[near], 1 - kinds[near])
        found[name] = moved, changed, rng.integers(1, 64, 12) / 64
    found["b"] = np.empty((0, 4)), np.empty(0, int), np.empty(0)  # nothing is found there
    return truth, found


def write_coco(folder, images):
    listed, annotations = [], []
    for number, (name, (boxes, kinds, scores)) in enumerate(images.items(), 1):
        height, width = SIZES[name]
        listed.append({"id": number, "file_name": f"img/{name}.png", "height": height, "width": width})
        for (y0, x0, y1, x1), kind, score in zip(
            boxes.tolist(), kinds.tolist(), scores.tolist(), strict=True
        ):
            own = {"image_id": number, "category_id": kind, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            annotations.append(own | ({} if np.isnan(score) else {"score": score}))
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
    path = folder / "coco.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return path


def write_voc(folder, images):
    (folder / "voc").mkdir()
    for name, (boxes, kinds, _) in images.items():
        height, width = SIZES[name]
        objects = "".join(
            f"<object><name>{CLASSES[kind]}</name><bndbox><xmin>{x0 + 1:.0f}</xmin><ymin>{y0 + 1:.0f}</ymin>"
            f"<xmax>{x1:.0f}</xmax><ymax>{y1:.0f}</ymax></bndbox></object>"
            for (y0, x0, y1, x1), kind in zip(boxes.tolist(), kinds.tolist(), strict=True)
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        (folder / f"voc/{name}.xml").write_text(text)
    return folder / "voc"


def write_yolo(folder, images):
    (folder / "yolo").mkdir()
    (folder / "yolo/classes.txt").write_text("\n".join(CLASSES))
    for name, (boxes, kinds, scores) in images.items():
        height, width = SIZES[name]
        lines = [
            f"{kind} {(x0 + x1) / 2 / width!r} {(y0 + y1) / 2 / height!r} {(x1 - x0) / width!r} "
            f"{(y1 - y0) / height!r}" + ("" if np.isnan(score) else f" {score!r}")
            for (y0, x0, y1, x1), kind, score in zip(
                boxes.tolist(), kinds.tolist(), scores.tolist(), strict=True
            )
        ]
        if lines:  # no file for images without objects
            (folder / f"yolo/{name}.txt").write_text("\n".join(lines))
    return folder / "yolo"


def write_csv(folder, images):
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x0", "y0", "x1", "y1", "class", "score"])
        for name, (boxes, kinds, scores) in images.items():
            for (y0, x0, y1, x1), kind, score in zip(
                boxes.tolist(), kinds.tolist(), scores.tolist(), strict=True
            ):
                shown = "" if np.isnan(score) else score
                writer.writerow([f"{name}.tif", x0, y0, x1, y1, CLASSES[kind], shown])
    return folder / "table.csv"


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}


def expected_scores(truth, found, threshold=-np.inf, with_scores=True):
    matches = metrics.pooled_matches(
        [
            metrics.match_boxes(
                truth[name][0],
                found[name][0],
                found[name][2] if with_scores else np.ones(len(found[name][0])),
                truth_class=1 - truth[name][1],  # in the order of the names
                found_class=1 - found[name][1],
                classes=2,
            )
            for name in truth
        ]
    )
    scores = metrics.detection_scores(matches, threshold)
    for number, name in enumerate(sorted(CLASSES)):
        own = metrics.detection_scores(matches.of_class(number), threshold)
        scores |= {f"{metric}_{name}": value for metric, value in own.items()}
    return scores


def evaluated(folder, *words):
    """Return the scores with all boxes, and those with the best F1, which the command writes."""
    assert main(["evaluate", *map(str, words), "--csv", str(folder / "scores.csv")]) == 0
    table = pd.read_csv(folder / "scores.csv")
    again = table.metric.duplicated()
    return (part.set_index("metric").value for part in (table[~again], table[again]))


def agree(found, expected):
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True, abs=1e-9), name


@pytest.mark.parametrize("of_prediction", [*WRITERS])
@pytest.mark.parametrize("of_truth", [*WRITERS])
def test_all_formats_give_the_same_scores(of_truth, of_prediction, tmp_path, capsys):
    """Images have several sizes, and nothing is found in one of them."""
    truth, found = drawn()
    for name in ("truth", "found"):
        (tmp_path / name).mkdir()
    paths = WRITERS[of_truth](tmp_path / "truth", truth), WRITERS[of_prediction](tmp_path / "found", found)
    if {of_truth, of_prediction} == {"yolo", "csv"}:
        assert main(["evaluate", *map(str, paths)]) == 1
        message = r"yolo: numbers are relative to the size of the images, which .*table\.csv does not state"
        assert re.search(message, capsys.readouterr().err)
        return
    scores, at_best = evaluated(tmp_path, *paths)
    with_scores = of_prediction != "voc"  # which has none
    agree(scores, expected_scores(truth, found, with_scores=with_scores))
    printed = capsys.readouterr().out
    assert f"box_ap_50             {scores['box_ap_50']:.4f}" in printed
    assert (f"Best F1: {at_best.get('box_f1', np.nan):.4f}" in printed) == with_scores
    row = re.search(r"mitosis +(\d+) +(\d+) +(\d+) +([\d.]+)", printed)
    assert [float(text) for text in row.groups()] == [
        *(scores[f"{name}_mitosis"] for name in metrics.BOX_COUNTS),
        pytest.approx(scores["box_ap_mitosis"], abs=1e-4),
    ]


def test_the_smallest_score_is_chosen_or_given(tmp_path):
    truth, found = drawn()
    paths = write_coco(tmp_path, truth), write_csv(tmp_path, found)
    values = np.unique(np.concatenate([scores for *_, scores in found.values()]))
    f1 = [expected_scores(truth, found, value)["box_f1"] for value in values]
    _, at_best = evaluated(tmp_path, *paths)
    assert at_best["box_f1"] == max(f1)
    agree(
        at_best,
        {k: v for k, v in expected_scores(truth, found, values[np.argmax(f1)]).items() if k in at_best},
    )
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table.threshold.iloc[-1] == values[len(f1) - 1 - np.argmax(f1[::-1])]
    scores, _ = evaluated(tmp_path, *paths, "--score", values[5])
    agree(scores, expected_scores(truth, found, values[5]))
    assert pd.read_csv(tmp_path / "scores.csv").threshold.iloc[0] == values[5]


def test_golden_numbers_are_printed(tmp_path, capsys):
    """Five objects, and the detections T F T T F T; nothing names an image."""
    for name, places in (("truth", (0, 1, 2, 3, 4)), ("found", (0, 8, 1, 2, 9, 3))):
        rows = [f"{10 * place},0,{10 * place + 4},4,{1 - n / 10}" for n, place in enumerate(places)]
        header = "x0,y0,x1,y1,score"
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
    assert main(["evaluate", str(tmp_path / "truth.csv"), str(tmp_path / "found.csv")]) == 0
    printed = capsys.readouterr().out
    for line in (
        "box_ap                0.6370",
        "box_ap_50             0.6370",
        "box_ap_75             0.6370",
        "voc_ap_2007           0.6591",
        "voc_ap_2010           0.6333",
        "box_precision         0.6667",
        "box_recall            0.8000",
        "count_difference      1.0000",
        "boxes_matched         4\n",
    ):
        assert line in printed
    assert (
        "Best F1: 0.7273, of boxes with a score of at least 0.5 (precision 0.6667, recall 0.8000)" in printed
    )


# labels


def write_labels(path, images, dtype=np.uint8):
    """Write label images whose boxes are those of `images`; they do not overlap."""
    found = []
    for boxes, *_ in images:
        labels = np.zeros((60, 80), dtype)
        for number, (y0, x0, y1, x1) in enumerate(np.asarray(boxes, int), 1):
            labels[y0:y1, x0:x1] = number
        found.append(labels)
    tifffile.imwrite(path, np.squeeze(np.stack(found)), photometric="minisblack")
    return path


def in_grid(rng, count):
    places = rng.permutation(24)[:count]
    corner = np.stack([places // 6 * 14, places % 6 * 13], axis=1)
    return np.hstack([corner, corner + rng.integers(6, 12, (count, 2))]).astype(float)


@pytest.fixture
def stack(tmp_path):
    """Labels of three sections, and our own table of detections."""
    rng = np.random.default_rng(5)
    truth = [in_grid(rng, count) for count in (9, 14, 5)]
    found = [own[::2] + rng.integers(0, 3, (len(own[::2]), 4)) for own in truth]
    found[1] = found[1][:0]
    scores = [rng.random(len(own)) for own in found]
    write_labels(tmp_path / "labels.tif", [(own,) for own in truth])
    rows = [
        ("v", z, SectionBoxes(own, ["cell"] * len(own), np.zeros(len(own), bool), score))
        for z, (own, score) in enumerate(zip(found, scores, strict=True))
    ]
    write_detections(tmp_path / "v_detections.csv", rows)
    sections = zip(truth, found, scores, strict=True)
    return tmp_path, [metrics.match_boxes(*section) for section in sections], truth


def test_labels_are_compared_with_our_own_table(stack, capsys):
    """A section without a line has no detections."""
    folder, matches, _ = stack
    scores, _ = evaluated(folder, folder / "labels.tif", folder / "v_detections.csv")
    agree(scores, metrics.detection_scores(metrics.pooled_matches(matches), -np.inf))
    assert "no entry for section 1: no objects" in capsys.readouterr().out
    scores, _ = evaluated(folder, folder / "labels.tif", folder / "v_detections.csv", "--sections", "0-1")
    agree(scores, metrics.detection_scores(metrics.pooled_matches(matches[:2]), -np.inf))
    scores, _ = evaluated(folder, folder / "labels.tif", folder / "v_detections.csv", "--sections", "2")
    agree(scores, metrics.detection_scores(matches[2], -np.inf))


def test_slices_of_labels_are_found_by_their_names(tmp_path):
    rng, truth, found = np.random.default_rng(2), {}, {}
    (tmp_path / "slices").mkdir()
    for name in ("p", "q"):
        boxes = in_grid(rng, 6)
        write_labels(tmp_path / f"slices/{name}.tif", [(boxes,)])
        truth[name] = boxes, np.zeros(6, int)
        found[name] = boxes[:4], np.zeros(4, int), rng.random(4)
    path = write_csv(tmp_path, {name: found[name] for name in ("q", "p")})
    scores, _ = evaluated(tmp_path, tmp_path / "slices", path, "--annotation-kind", "instances")
    assert (scores["boxes_matched"], scores["boxes_annotated"], scores["box_precision"]) == (8, 12, 1)


def test_labels_of_any_tool_are_scored_against_boxes(stack, capsys):
    folder, _, truth = stack
    (folder / "truth").mkdir()
    rows = ["image,section,x0,y0,x1,y1"]
    rows += [f"labels.tif,{z},{x0},{y0},{x1},{y1}" for z, own in enumerate(truth) for y0, x0, y1, x1 in own]
    (folder / "truth.csv").write_text("\n".join(rows))
    scores, at_best = evaluated(folder, folder / "truth.csv", folder / "labels.tif", "--prediction", "labels")
    assert [scores[name] for name in metrics.DETECTION_METRICS] == [1] * len(metrics.DETECTION_METRICS)
    assert at_best.empty  # all have the score 1
    assert "boxes have no scores" in capsys.readouterr().out
    table = api.evaluate(folder / "truth.csv", folder / "labels.tif", prediction_kind="labels")
    assert table.set_index("metric").value["boxes_matched"] == 28


def test_several_images_have_a_line_each(tmp_path, capsys):
    """Masks and detections are paired by name; the last line has sums and means."""
    rng = np.random.default_rng(1)
    (tmp_path / "masks").mkdir()
    (tmp_path / "found").mkdir()
    expected = {}
    for name in "ab":
        truth = in_grid(rng, 8)
        found, score = np.vstack([truth[:5], in_grid(rng, 2)]), rng.random(7)
        write_labels(tmp_path / f"masks/{name}_mask.tif", [(truth,)])
        boxes = SectionBoxes(found, ["cell"] * 7, np.zeros(7, bool), score)
        write_detections(tmp_path / f"found/{name}_detections.csv", [(name, 0, boxes)])
        expected[name] = metrics.detection_scores(metrics.match_boxes(truth, found, score), -np.inf)
    words = [f"{tmp_path}/found/{name}_detections.csv" for name in "ba"]
    assert main(["evaluate", f"{tmp_path}/masks", *words, "--annotation-kind", "instances"]) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert lines[0].split() == [
        "prediction",
        "annotated",
        "found",
        "matched",
        *["Box", "AP", "AP50", "F1", "Count", "err."],
    ]
    for line, name in zip(lines[1:3], "ba", strict=True):
        assert f"{name}_detections.csv" in line
        assert line.split()[1:] == [
            "8",
            "7",
            f"{expected[name]['boxes_matched']:.0f}",
            *(f"{expected[name][metric]:.4f}" for metric in ("box_ap", "box_ap_50", "box_f1", "count_error")),
        ]
    mean = np.mean([own["box_ap_50"] for own in expected.values()])
    assert re.search(rf"sum of cells, mean of scores +16 +14 +\d+ +[\d.]+ +{mean:.4f} ", lines[3])


def test_folders_of_boxes_are_paired_by_image(tmp_path, capsys):
    """Two folders are one set of images. With `--images`, or several files, each is scored alone."""
    truth, found = drawn()
    found["b"] = (*truth["b"][:2], np.ones(9))
    voc, yolo = write_voc(tmp_path, truth), write_yolo(tmp_path, found)
    each = {name: expected_scores({name: truth[name]}, {name: found[name]})["box_f1"] for name in truth}
    files = [f"{yolo}/{name}.txt" for name in "cab"]
    for words in ([voc, *files], ["--images", voc, yolo], [write_coco(tmp_path, truth), *files]):
        scores = tmp_path / "scores.csv"
        assert main(["evaluate", *map(str, words), "--csv", str(scores)]) == 0
        table = pd.read_csv(scores).drop_duplicates(["prediction", "metric"])
        table = table[table.metric == "box_f1"].set_index("prediction").value
        assert {re.search(r"(\w)\.txt", path)[1]: value for path, value in table.items()} == pytest.approx(
            each
        )


def test_ignored_objects_neither_count_nor_make_detections_false(tmp_path):
    truth = coco_of(tmp_path, [("a.png", (40, 50))])
    content = json.loads(truth.read_text())
    crowd = content["annotations"][0] | {"bbox": [20, 20, 9, 9], "iscrowd": 1}
    truth.write_text(json.dumps(content | {"annotations": [*content["annotations"], crowd]}))
    found = table(tmp_path, "a.csv", "a,0,2,5,8,cell,0.9", "a,20,20,29,29,cell,0.8")
    scores, _ = evaluated(tmp_path, truth, found)
    assert [scores[name] for name in (*metrics.BOX_COUNTS, "box_ap")] == [1, 1, 1, 1]


# which images belong together


def coco_of(folder, sizes, name="coco.json"):
    images = [{"id": n, "file_name": own, "height": h, "width": w} for n, (own, (h, w)) in enumerate(sizes)]
    boxes = [{"image_id": n, "category_id": 0, "bbox": [n, 2, 5, 6]} for n in range(len(sizes))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 0, "name": "cell"}]}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_sections_of_a_table_belong_to_images_with_numbers(tmp_path):
    truth = coco_of(tmp_path, [(f"stack_{n}.png", (40, 50)) for n in range(3)])
    rows = [f"stack,{z},{z},2,{z + 5},8,cell" for z in (0, 2)]
    (tmp_path / "found.csv").write_text("\n".join(["volume,section,x0,y0,x1,y1,class", *rows]))
    true, found, _ = read_pair(truth, tmp_path / "found.csv")
    assert [len(own.boxes) for own in true] == [1, 1, 1]
    assert [own.boxes.tolist() for own in found] == [[[2, 0, 8, 5]], [], [[2, 2, 8, 7]]]


def test_a_table_of_a_volume_with_one_section_belongs_to_the_image_of_this_name(tmp_path):
    truth = coco_of(tmp_path, [(f"{name}.png", (40, 50)) for name in "abc"])
    (tmp_path / "b_detections.csv").write_text("volume,section,class,x0,y0,x1,y1\nb,0,cell,1,2,6,8\n")
    true, found, notes = read_pair(truth, tmp_path / "b_detections.csv")
    assert [own.boxes.tolist() for own in true] == [own.boxes.tolist() for own in found] == [[[2, 1, 8, 6]]]
    assert notes[0] == "1 image: b.png"
    (tmp_path / "d.csv").write_text("volume,section,class,x0,y0,x1,y1\nd,0,cell,1,2,6,8\n")
    with pytest.raises(
        InputError, match=r"d\.csv: has boxes of one image, whose name belongs to none of .* a"
    ):
        read_pair(truth, tmp_path / "d.csv")


def test_images_that_only_the_prediction_names_are_asked_for(tmp_path, capsys):
    truth, found = drawn()
    paths = [write_coco(tmp_path, {name: truth[name] for name in "ab"}), write_csv(tmp_path, found)]
    assert main(["evaluate", *map(str, paths)]) == 1
    message = capsys.readouterr().err
    assert (
        "coco.json: no entry for c.tif, for which" in message and "`--empty-sections background`" in message
    )
    scores, _ = evaluated(tmp_path, *paths, "--empty-sections", "ignore")
    agree(scores, expected_scores({name: truth[name] for name in "ab"}, found))
    nothing = np.empty((0, 4)), np.empty(0, int), np.empty(0)
    scores, _ = evaluated(tmp_path, *paths, "--empty-sections", "background")
    agree(scores, expected_scores({name: truth[name] for name in "ab"} | {"c": nothing}, found))


def test_an_empty_table_finds_nothing(tmp_path):
    truth, _ = drawn()
    (tmp_path / "none.csv").write_text("volume,section,class,x0,y0,x1,y1,score\n")
    scores, _ = evaluated(tmp_path, write_coco(tmp_path, truth), tmp_path / "none.csv")
    assert (scores["boxes_annotated"], scores["boxes_found"], scores["box_ap"]) == (27, 0, 0)


def test_names_that_differ_are_paired_by_the_part_that_varies(tmp_path):
    truth = coco_of(tmp_path, [(f"t{n}.png", (40, 50)) for n in range(3)])
    found = coco_of(tmp_path, [(f"man_seg{n}.png", (40, 50)) for n in range(3)], "found.json")
    true, own, _ = read_pair(truth, found)
    assert [a.boxes.tolist() for a in true] == [b.boxes.tolist() for b in own]
    other = coco_of(tmp_path, [(f"x{n}.png", (40, 50)) for n in (5, 7, 9)], "other.json")
    with pytest.raises(InputError, match=r"other\.json: found boxes of x5\.png.*, but the images are t0"):
        read_pair(truth, other)


def test_a_table_with_sections_of_several_images_is_refused(tmp_path):
    rows = ["image,section,x0,y0,x1,y1", "a,0,1,2,3,4", "a,1,1,2,3,4", "b,0,1,2,3,4"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"t\.csv: has sections of 2 images: a, b\. Write one table"):
        read_pair(tmp_path / "t.csv", tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("\n".join(rows[:3]))
    true, _, _ = read_pair(tmp_path / "t.csv", tmp_path / "t.csv")
    assert len(true) == 2


def test_another_size_of_an_image_is_refused(tmp_path):
    paths = [coco_of(tmp_path, [("a.png", size)], f"{size[0]}.json") for size in ((40, 50), (80, 100))]
    with pytest.raises(InputError, match=r"80\.json: the boxes were drawn on an image of 100 x 80 px"):
        read_pair(*paths)


# classes, corners and messages


def table(folder, name, *rows, header="image,x0,y0,x1,y1,class,score"):
    (folder / name).write_text("\n".join([header, *rows]))
    return str(folder / name)


def test_classes_are_compared_by_name_if_there_are_several(tmp_path, capsys):
    one = table(tmp_path, "one.csv", "a,1,1,9,9,cell,", "a,11,1,19,9,cell,")
    two = table(tmp_path, "two.csv", "a,1,1,9,9,a,0.5", "a,11,1,19,9,b,0.5")
    other = table(tmp_path, "other.csv", "a,1,1,9,9,nucleus,0.5", "a,11,1,19,9,nucleus,0.5")
    scores, _ = evaluated(tmp_path, one, other)
    assert scores["box_f1"] == 1 and "classes are not compared: cell, nucleus" in capsys.readouterr().out
    assert main(["evaluate", two, other]) == 1
    message = "other.csv: found the classes nucleus, but"
    assert message in (found := capsys.readouterr().err) and "has a, b. Give them the same names." in found
    scores, _ = evaluated(tmp_path, two, table(tmp_path, "c.csv", "a,1,1,9,9,a,0.5", "a,11,1,19,9,c,0.9"))
    assert (scores["boxes_matched"], scores["box_ap"]) == (1, 0.5)  # AP is the mean over the true classes
    assert scores["boxes_found_c"] == 1 and np.isnan(scores["box_ap_c"])


def test_wrong_corners_name_the_option_of_their_file(tmp_path, capsys):
    true = table(tmp_path, "t.csv", "a,1,1,9,9,c,", header="image,xmin,ymin,xmax,ymax,class,score")
    point = table(tmp_path, "p.csv", "a,1,1,1,9,c,1", header="image,xmin,ymin,xmax,ymax,class,score")
    for words, option in (((true, point), "--prediction-coordinates"), ((point, true), "--box-coordinates")):
        assert main(["evaluate", *words]) == 1
        assert f"`{option} pixels_from_1` (first and last pixels" in capsys.readouterr().err
        assert main(["evaluate", *words, option, "pixels_from_1"]) == 0
        printed = capsys.readouterr().out
        assert f"(`{option} pixels_from_1`)" in printed and "`--empty" not in printed


WRONG = {
    "a probability map": (
        ["p.csv", "p.tif"],
        r"p\.tif: found .*, but boxes are compared with those of labels. .* `--prediction labels`",
    ),
    "ignored pixels of boxes": (["t.csv", "t.csv", "--ignore", "255"], r"t\.csv: found boxes; `--ignore`"),
    "labels with options of boxes": (
        ["l.tif", "p.csv", "--box-coordinates", "pixels_from_1"],
        r"l\.tif: found an image; `--box-coordinates` can only be used with boxes",
    ),
    "boxes with options of labels": (
        ["l.tif", "p.csv", "--channel", "0", "--highest", "255"],
        r"p\.csv: found boxes; `--highest`, `--channel` can only be used with images",
    ),
    "a score for labels": (["l.tif", "l.tif", "--score", "0.5"], r"l\.tif: found an image; `--score` can"),
    "some scores": (["t.csv", "some.csv"], r"some\.csv: 1 of 2 boxes have no score"),
    "several volumes": (["t.csv", "v.csv"], r"found boxes of the volumes a, b\. Write one table for each"),
    "no such file": (["t.csv", "nothing.csv"], r"nothing\.csv: .*(no such file|No such file)"),
    "a folder without boxes": (["t.csv", "empty"], r"empty"),
    "outside": (["l.tif", "far.csv"], r"far\.csv, line 2.*outside of the image of 80 x 60 px"),
}


@pytest.mark.parametrize("name", WRONG)
def test_messages(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path, "t.csv", "l,1,1,9,9,c,")
    table(tmp_path, "p.csv", "p,1,1,9,9,c,")
    table(tmp_path, "some.csv", "l,1,1,9,9,c,", "l,11,1,19,9,c,0.5")
    table(tmp_path, "far.csv", "l,101,1,109,9,c,1")
    table(tmp_path, "v.csv", "a,0,1,1,9,9", "b,0,1,1,9,9", header="volume,section,x0,y0,x1,y1")
    write_labels(tmp_path / "l.tif", [(in_grid(np.random.default_rng(0), 12),)])
    probability = np.random.default_rng(0).random((60, 80), np.float32)
    tifffile.imwrite("p.tif", probability, photometric="minisblack")
    (tmp_path / "empty").mkdir()
    words, message = WRONG[name]
    assert main(["evaluate", *words, "--csv", "out.csv"]) == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (tmp_path / "out.csv").exists()


def test_pixels_that_are_not_annotated_count_as_in_the_workflow(stack):
    """Some objects are hidden in part or as a whole, some detections lie there, and so does a section."""
    folder, _, truth = stack
    rng = np.random.default_rng(3)
    ignore = np.zeros((3, 60, 80), np.uint8)
    ignore[0, :20], ignore[0, 30:, 40:], ignore[1] = 1, 1, 1
    tifffile.imwrite(folder / "mask.tif", ignore, photometric="minisblack")
    rows, matches = ["section,x0,y0,x1,y1,class,score"], []
    with layout.create(folder / "dataset.h5", {}) as file:
        layout.add(file, layout.IGNORE, ignore.shape)[:] = ignore
        add_boxes(file, tifffile.imread(folder / "labels.tif"))
        objects = BoxTruth.of(file)
        for z, own in enumerate(truth):
            corner = rng.integers(0, [50, 70], (20, 2))
            found = np.vstack([own, np.hstack([corner, corner + rng.integers(4, 9, (20, 2))])]).astype(float)
            score = rng.random(len(found))
            for (y0, x0, y1, x1), value in zip(found, score, strict=True):
                rows.append(f"{z},{x0},{y0},{x1},{y1},cell,{value}")
            matches.append(objects.matches(z, Found(found, np.ones(len(found), np.uint8), score)))
    (folder / "all.csv").write_text("\n".join(rows))
    words = folder / "labels.tif", folder / "all.csv", "--ignore-mask", folder / "mask.tif"
    scores, _ = evaluated(folder, *words)
    expected = metrics.detection_scores(metrics.pooled_matches(matches), -np.inf)
    agree(scores, expected)
    assert 0 < expected["boxes_annotated"] < len(truth[0]) + len(truth[2])
    assert expected["boxes_found"] < sum(len(own) + 20 for own in (truth[0], truth[2]))


def test_sections_that_are_not_annotated_are_left_out(stack):
    folder, matches, truth = stack
    write_labels(folder / "labels.tif", [(truth[0],), (np.empty((0, 4)),), (truth[2],)])
    words = folder / "labels.tif", folder / "v_detections.csv", "--empty-sections", "ignore"
    scores, _ = evaluated(folder, *words)
    agree(scores, metrics.detection_scores(metrics.pooled_matches([matches[0], matches[2]]), -np.inf))
