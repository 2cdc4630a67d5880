"""The comparison of a study: which differences are beyond chance, and the page that shows them."""

import base64
import dataclasses
import io
import re
import shutil
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline_lib import layout, networks, provenance
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.data.correspondence import outlines
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.figures.boxes import FALSE, FOUND, IGNORED, MISSED
from pipeline_lib.figures.colouring import rgb
from pipeline_lib.figures.comparison import palette_png, section_pictures
from pipeline_lib.figures.curves import Curve, curves_chart
from pipeline_lib.figures.parts import ANNOTATED
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.files import write_json
from pipeline_lib.scores import COLUMNS, SECTION_COLUMNS
from pipeline_lib.stages.comparison import COLUMNS as COMPARED
from pipeline_lib.stages.comparison import Contents, Shown, Trained, write_comparison
from pipeline_lib.tasks.detection.found import Found, create_arrays
from pipeline_lib.tasks.detection.truth import box_writer
from tests.test_report import Page

SECTIONS = 8
METRICS = ("rand_error", "v_rand_thin", "seg", "vi_split")
BLANK = "\u2013"
#: Boxes of the cells in each section. The last one is not scored.
CELLS = [(16 * y + 2, 16 * x + 2, 16 * y + 15, 16 * x + 15) for y, x in product(range(4), repeat=2)]
WRONG = (20, 40, 31, 51)  # a false detection


def make_study(folder, variants, seeds=(0, 1, 2), noise=0.004, size=64):
    """Write the files of a study whose variants are better by the given number, and return its contents.

    Scores depend on the section, on the variant and on chance in the training.
    """
    rng = np.random.default_rng(0)
    arguments = {"depth": 1, "base_channels": 2, "input_channels": 1}
    plan = networks.plan("unet", **arguments)
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    Model(plan, plan.build(), normalisation, {}).save(folder / "untrained.pt")
    hard = {split: rng.uniform(0, 0.1, SECTIONS) for split in ("validation", "test")}
    models, speed, segmentations = [], {}, {}
    labels = np.zeros((SECTIONS, size, size), np.uint32)
    for n, (y, x) in enumerate(product(range(4), repeat=2), 1):
        side = size // 4
        labels[:, y * side + 2 : (y + 1) * side - 1, x * side + 2 : (x + 1) * side - 1] = n
    with layout.create(folder / "dataset.h5", {}) as file:
        raw = np.where(labels > 0, 160, 60) + rng.normal(0, 20, labels.shape)
        layout.add(file, layout.RAW, (1, *labels.shape), "uint8")[:] = raw.clip(0, 255).astype(np.uint8)
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        append = box_writer(file, ["cell"])
        for z in range(SECTIONS):
            boxes = objects_of(labels, z).boxes
            append(z, boxes, np.ones(len(boxes), np.uint8), np.arange(len(boxes)) == len(boxes) - 1)
    for number, (variant, better) in enumerate(variants.items()):
        path = folder / f"segmentation-{variant}.h5"
        with layout.create(path, {}) as file:
            layout.add(file, layout.LABELS, labels.shape)[:] = np.roll(labels, number, axis=1)
        segmentations[variant] = path
        speed[variant] = folder / f"speed-{variant}.json"
        write_json(
            speed[variant],
            {
                "parameters": 1000 * 2**number,
                "multiply_adds": 30_000 * (number + 1),
                "seconds_per_iteration": 0.06 * (number + 1),
                "seconds_per_megapixel": 2.0 + number,
            },
        )
        for seed in seeds:
            name = f"{variant}-seed{seed}"
            own = folder / name
            own.mkdir()
            luck = better + rng.normal(0, noise)
            criterion = "seg" if number else "rand_error"  # the page shows that of the first variant
            write_json(own / "chosen.json", {"threshold": 0.35, "criterion": criterion})
            with provenance.making("train", [own / "model.pt"], []):
                shutil.copy(folder / "untrained.pt", own / "model.pt")
            steps = np.arange(1, 11)
            pd.DataFrame(
                {
                    "iteration": 100 * steps,
                    "validation_loss": 0.1 + (1 - better) / steps + rng.uniform(0, 0.02, 10),
                    "validation_v_rand_thin": 0.9 + luck - 0.4 / steps,
                }
            ).to_csv(own / "history.csv", index=False)
            rows, at_sections = [], []
            for split, metric in product(hard, METRICS):
                sign = 1 if metric in ("v_rand_thin", "seg") else -1
                values = 0.5 + sign * (0.3 + luck - hard[split] + rng.normal(0, 0.002, SECTIONS))
                rows += [(split, metric, t, v) for t, v in ((0.3, 0.0), (0.35, values.mean()), (0.5, 0.0))]
                at_sections += [(split, metric, 0.35, v, z) for z, v in enumerate(values)]
            for file, found, columns in (
                ("scores.csv", rows, COLUMNS),
                ("sections.csv", at_sections, SECTION_COLUMNS),
            ):
                table = pd.DataFrame(
                    found, columns=["split", "metric", "threshold", "value", "section"][: len(found[0])]
                )
                table = table.assign(volume=table.split, network=name, variant=variant, seed=seed, fold=0)
                table[columns].to_csv(own / file, index=False)
            files = (own / name for name in ("model.pt", "history.csv", "chosen.json"))
            models.append(
                Trained(name, variant, seed, 0, *files, [own / "scores.csv"], [own / "sections.csv"])
            )
    return Contents(
        title="A <study>",
        variants={variant: {"network": {"name": variant}} if n else {} for n, variant in enumerate(variants)},
        models=models,
        speed=speed,
        pictures=[Shown("cells", "test", z, folder / "dataset.h5", segmentations) for z in (0, 3)],
    )


VARIANTS = {"unet": 0.0, "a<b": 0.05, "worse_one": -0.05, "same": 0.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"), VARIANTS)


def write(contents, folder):
    """Write the page and return its parsed elements and the table."""
    write_comparison(contents, folder / "page.html", folder / "table.csv")
    found = pd.read_csv(folder / "table.csv", float_precision="round_trip")
    html = (folder / "page.html").read_text(encoding="utf-8")
    return Page(html), found


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    return write(study, tmp_path_factory.mktemp("page"))


def copied(study, folder):
    """Return the contents of a copy of the files, which a test may delete."""
    old = Path(study.models[0].model).parents[1]
    shutil.copytree(old, folder / "copy")

    def move(value):
        if isinstance(value, Path):
            return folder / "copy" / value.relative_to(old)
        if isinstance(value, dict):
            return {key: move(own) for key, own in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(move, value))
        return [*map(move, value)] if isinstance(value, list) else value

    return Contents(**{field.name: move(getattr(study, field.name)) for field in dataclasses.fields(study)})


def cells(page, number=0):
    """Return the rows of a table: first cell -> texts of the others, without line breaks."""
    rows = [[" ".join(cell["text"].split()) for cell in row] for row in page.tables[number]]
    return {first: others for first, *others in rows[1:]}


def lead(page):
    return " ".join(page.text.partition("On the test split")[2].partition("4 variants")[0].split())


# numbers


def test_the_table_has_means_over_models_and_the_differences_of_the_sections(study, written):
    page, found = written
    assert [*found.columns] == COMPARED
    row = found.set_index(["variant", "split", "metric"]).loc["a<b", "test", "v_rand_thin"]
    models = {name: [m for m in study.models if m.variant == name] for name in ("a<b", "unet")}
    means, sections = [], {}
    for model in models["a<b"]:
        scores = pd.read_csv(model.scores[0])
        chosen = (scores.split == "test") & (scores.metric == "v_rand_thin") & (scores.threshold == 0.35)
        means.append(scores[chosen].value.item())
    for name, own in models.items():
        tables = pd.concat(pd.read_csv(model.sections[0]) for model in own)
        tables = tables[(tables.split == "test") & (tables.metric == "v_rand_thin")]
        sections[name] = tables.groupby("section").value.mean()
    assert (row.models, row["mean"], row.standard_deviation) == pytest.approx(
        (3, np.mean(means), np.std(means, ddof=1))
    )
    assert row.difference == pytest.approx((sections["a<b"] - sections["unet"]).mean())
    assert row.low < row.difference < row.high and row.differs == 1
    shown = cells(page)["a<b"]
    assert shown[0] == "3"
    assert shown[2].startswith(f"{row['mean']:.3f} ± {row.standard_deviation:.2g} +{row.difference:.3f} ")
    assert shown[2].endswith("] better")


def test_only_differences_beyond_chance_are_marked(written):
    page, found = written
    test = found[found.split == "test"].set_index(["metric", "variant"]).differs
    assert test.rand_error.to_dict() == {"unet": 0, "a<b": -1, "worse_one": 1, "same": 0}
    assert lead(page) == (
        ", compared with unet: Rand error: better with a<b; worse with worse_one. "
        "V-Rand after thinning: better with a<b; worse with worse_one."
    )
    shown = {name: others[1] for name, others in cells(page).items()}
    assert shown["a<b"].endswith("] better") and shown["worse_one"].endswith("] worse")
    assert shown["same"].endswith("] within chance") and "]" not in shown["unet"]


def test_the_costs_are_those_of_the_files(written):
    shown = cells(written[0])
    assert [" ".join(text.split()) for text in shown["unet"][-3:]] == ["30 k434", "1 min 00 s1,000", "2.0 s"]
    assert shown["worse_one"][-3:] == ["90 k434", "3 min 00 s1,000", "4.0 s"]


def test_the_settings_of_each_variant_are_valid_yaml(study, written):
    page, _ = written
    shown = {
        first: others[0] for first, *others in ([cell["text"] for cell in row] for row in page.tables[-1])
    }
    assert shown.pop("unet") == "the config as it is"
    assert {name: yaml.safe_load(text) for name, text in shown.items()} == {
        name: own for name, own in study.variants.items() if own
    }


def test_the_same_files_give_the_same_bytes_and_nothing_is_loaded(study, written, tmp_path):
    write(study, tmp_path)
    again = (tmp_path / "page.html").read_bytes()
    write(study, tmp_path)
    assert (tmp_path / "page.html").read_bytes() == again
    for _, attributes in written[0].elements:
        for name in ("src", "href"):
            assert re.match("data:|#|table.csv$", attributes.get(name) or "#")


# what is missing


def test_missing_models_are_stated_and_the_others_are_compared(study, tmp_path):
    contents = copied(study, tmp_path)
    models = {model.name: model for model in contents.models}
    models["a<b-seed1"].model.unlink()
    models["same-seed0"].sections[0].unlink()
    models["same-seed2"].postprocessing.unlink()
    for seed in range(3):
        models[f"worse_one-seed{seed}"].scores[0].unlink()
    contents.speed["same"].unlink()
    contents.pictures[0].segmentations["worse_one"].unlink()
    page, found = write(contents, tmp_path)
    listed = " ".join(page.text.partition("3 seeds.")[2].partition("Each score")[0].split())
    for text in (
        "a<b lacks 1 model: a<b-seed1. The training did not end: ",
        "same lacks 1 model: same-seed0. The evaluation did not end: ",
        "same lacks 1 model: same-seed2. The choice of the threshold did not end: ",
        "worse_one lacks 3 models: worse_one-seed0, worse_one-seed1, worse_one-seed2. The evaluation did",
        "Multiply-adds and times were not measured for same.",
        "same was trained once.",
    ):
        assert text in listed
    assert found.groupby("variant").models.max().to_dict() == {"unet": 3, "a<b": 2, "same": 1}
    shown = cells(page)
    assert shown["worse_one"][:3] == ["0", "missing", "missing"] and "2.0 s" not in shown["same"][-1]
    assert shown["a<b"][1].endswith("better") and shown["same"][1].endswith("trained once")
    assert page.text.count("no segmentation") == len(contents.pictures)


@pytest.mark.parametrize("gone", ["every model", "the first variant"])
def test_a_page_is_written_without_any_score_or_reference(study, tmp_path, gone):
    contents = copied(study, tmp_path)
    for model in contents.models:
        if gone == "every model" or model.variant == "unet":
            model.model.unlink()
    page, found = write(contents, tmp_path)
    if gone == "every model":
        assert "No variant could be scored yet." in page.text and not len(found)
    else:
        assert {*found.variant} == {"a<b", "worse_one", "same"}
        assert found.difference.isna().all() and not found.differs.any()
        assert cells(page)["unet"][1] == "missing"
        assert "The first variant, unet, has no scores, so no difference can be stated." in page.text


def test_one_model_of_each_variant_marks_nothing(study, tmp_path):
    first = dataclasses.replace(study, models=[model for model in study.models if model.seed == 0])
    page, found = write(first, tmp_path)
    assert not found.differs.any() and found.standard_deviation.isna().all()
    assert "unet was trained once." in page.text
    assert "trained once" in cells(page)["a<b"][1] and "better" not in cells(page)["a<b"][1]


# segmentations and detections


def with_detector(study, folder):
    """Return a copy of a study whose variant `same` finds boxes, more of them than the others."""
    contents, rng = copied(study, folder), np.random.default_rng(1)
    for model in contents.models:
        detects = model.variant == "same"
        luck = 0.1 * detects + rng.normal(0, 0.004)
        tables = {"scores": pd.read_csv(model.scores[0]), "sections": pd.read_csv(model.sections[0])}
        rows, t = [], 0.4 if detects else 0.35
        for split, metric in product(("validation", "test"), ("box_ap_50", "box_f1", "count_error")):
            sign = -1 if metric == "count_error" else 1
            values = 0.5 + sign * (luck + rng.normal(0, 0.002, SECTIONS))
            rows += [(split, metric, t, value, z) for z, value in enumerate(values)]
        own = tables["sections"].iloc[[0]].drop(columns=["split", "metric", "threshold", "value", "section"])
        further = pd.DataFrame(rows, columns=["split", "metric", "threshold", "value", "section"])
        further = further.merge(own.drop(columns="volume"), how="cross").assign(volume=further.split)
        means = further.groupby([c for c in COLUMNS if c != "value"], sort=False).value.mean().reset_index()
        for name, added in (("scores", means[COLUMNS]), ("sections", further[SECTION_COLUMNS])):
            table = added if detects else pd.concat([tables[name], added])
            table.to_csv(getattr(model, name)[0], index=False)
        if detects:
            write_json(model.postprocessing, {"threshold": t, "criterion": "box_f1", "grid": [t]})
            history = pd.read_csv(model.history)
            history.rename(columns={"validation_v_rand_thin": "validation_box_ap_50"}).to_csv(
                model.history, index=False
            )
    boxes = np.array([*CELLS[:10], WRONG, CELLS[10], CELLS[11], [2, 45, 12, 55]], float)
    scores = np.linspace(0.9, 0.35, len(boxes))  # the last two are below the threshold
    with layout.create(folder / "found.h5", {}) as file:
        create_arrays(file, ["background", "cell"], ["cell"])
        for z in range(SECTIONS):
            Found(boxes, np.ones(len(boxes), np.uint8), scores).append_to(file, z)
    probability = np.zeros((SECTIONS, 64, 64), np.float32)
    with layout.create(folder / "probability.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, probability.shape)[:] = probability
    chosen = next(model.postprocessing for model in contents.models if model.variant == "same")

    def beside_detector(shown):
        segmenting = {name: path for name, path in shown.segmentations.items() if name != "same"}
        return shown._replace(
            segmentations=segmenting,
            predictions=dict.fromkeys(segmenting, folder / "probability.h5"),
            detections={"same": [folder / "found.h5", chosen]},
        )

    return dataclasses.replace(contents, pictures=[*map(beside_detector, contents.pictures)])


def test_variants_that_segment_and_that_detect_are_compared_by_boxes(study, tmp_path):
    page, found = write(with_detector(study, tmp_path), tmp_path)
    heads = [" ".join(cell["text"].split()) for cell in page.tables[0][0]]
    assert heads[2:5] == [
        "Box AP at 0.5higher is better",
        "Box F1higher is better",
        "Count errorlower is better",
    ]
    shown = cells(page)
    assert {name: row[0] for name, row in shown.items()} == dict.fromkeys(VARIANTS, "3")
    assert all(text.endswith("] better") for text in shown["same"][1:4])
    assert shown["a<b"][1].endswith("] within chance")
    assert "Count error: better with same." in lead(page)
    assert [" ".join(text.split()) for text in cells(page, 1)["unet"]] == [
        "30 k434",
        "1 min 00 s1,000",
        "2.0 s",
    ]
    differs = found[found.split == "test"].set_index(["metric", "variant"]).differs
    assert (differs["count_error", "same"], differs["box_ap_50", "same"]) == (-1, 1)
    # scores of pixels are shown without the detector, and those of the others are as before
    assert "same" not in differs["v_rand_thin"] and differs["v_rand_thin", "a<b"] == 1
    tables = [cells(page, number) for number in range(len(page.tables) - 1)]
    assert [*tables[-1]] == ["unet", "a<b", "worse_one"] and tables[-1]["unet"][1] != BLANK
    assert sum("same" not in table for table in tables) == 2 * len(METRICS)
    _, found, without = page.text.partition("Scores that same does not have")
    assert found and "Rand error" in without and "Box AP at 0.5\n" not in without.partition("Learning")[0]
    assert not any(text in (BLANK, "missing") for t in tables for row in t.values() for text in row)


def test_learning_curves_of_both_kinds_are_in_their_charts(study, tmp_path):
    contents = with_detector(study, tmp_path)
    write_comparison(contents, tmp_path / "page.html", tmp_path / "table.csv")
    charts = (tmp_path / "page.html").read_text().partition('<div id="plots">')[2].split("<figure>")[1:5]
    drawn = [{*re.findall('<polyline data-variant="([^"]*)"', chart)} for chart in charts]
    segmenting = {"unet", "a&lt;b", "worse_one"}
    assert drawn == [segmenting, segmenting, {"same"}, {"same"}]  # their losses cannot be compared
    for chart, name in zip(
        charts, ("Loss of networks", "V-Rand", "Loss of detectors", "Box AP"), strict=True
    ):
        assert f"<figcaption>{name}" in chart


def test_the_first_variant_can_detect(study, tmp_path):
    contents = with_detector(study, tmp_path)
    order = ["same", "unet", "a<b", "worse_one"]
    page, found = write(
        dataclasses.replace(contents, variants={name: contents.variants[name] for name in order}), tmp_path
    )
    heads = [cell["text"] for cell in page.tables[0][0]]
    assert heads[2].startswith("Box F1")  # by which its threshold was chosen
    assert all(text.endswith("] worse") for text in cells(page)["unet"][1:4])
    rows = found[found.metric == "v_rand_thin"]
    assert {*rows.variant} == {*order[1:]} and rows.difference.isna().all()


def images_of(page):
    """Return the embedded pictures in their order."""
    data = (own["href"].partition(",")[2] for tag, own in page.elements if tag == "image")
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(own))).convert("RGB")).astype(int) for own in data
    ]


def has_line(picture, box, line):
    """Return whether pixels above a box have the colour of a line, which can be one of 256 similar ones."""
    y0, x0, _, x1 = (edge * len(picture) // 64 for edge in box)
    above = picture[y0 - 3 : y0, x0:x1]
    return (np.abs(above - rgb(line.colour)).max(axis=-1) < 25).any()


def test_boxes_of_segmentations_and_detections_are_drawn_next_to_each_other(study, tmp_path):
    page, _ = write(with_detector(study, tmp_path), tmp_path)
    names = [own["data-picture"] for tag, own in page.elements if tag == "svg" and "data-picture" in own]
    segmented = [f"{name}, segmentation" for name in ("unet", "a<b", "worse_one")]
    assert names == 2 * ["raw image", "annotation", *VARIANTS, *segmented]
    assert page.text.count("15 found, 0 missed, 0 false") == 2 * 2
    assert page.text.count("12 found, 3 missed, 4 false") == 2  # the lowest cells of `worse_one` are cut
    assert page.text.count("11 found, 4 missed, 1 false") == 2
    for kind, line in {"found": FOUND, "missed": MISSED, "false": FALSE, "not scored": IGNORED}.items():
        assert f"{kind} {line.words}" in " ".join(page.text.split())
    _, _, unet, *_, same = images_of(page)[:6]
    expected = {FOUND: [*CELLS[:11]], MISSED: CELLS[11:15], FALSE: [WRONG], IGNORED: [CELLS[15]]}
    for line, boxes in expected.items():
        assert all(has_line(same, box, line) for box in boxes), line
        assert not any(has_line(same, box, line) for box in CELLS if box not in boxes and box[0] != 18), line
    assert all(has_line(unet, box, FOUND) for box in CELLS[:15])
    assert not any(has_line(unet, box, line) for box in CELLS for line in (MISSED, FALSE))


def test_boxes_alone_are_drawn_as_the_annotation(study, tmp_path):
    """A volume that is annotated with boxes has no outlines."""
    contents = with_detector(study, tmp_path)
    dataset = Path(contents.pictures[0].dataset)
    with h5py.File(dataset, "a") as file:
        del file["labels"]
    shown = [own._replace(segmentations={}, predictions={}) for own in contents.pictures]
    page, _ = write(dataclasses.replace(contents, pictures=shown), tmp_path)
    raw, annotation, same = images_of(page)[:3]
    line = dataclasses.replace(FOUND, colour=ANNOTATED)
    assert all(has_line(annotation, box, line) for box in CELLS)
    assert not any(has_line(picture, CELLS[12], line) for picture in (raw, same))
    assert page.text.count("no boxes") == 2 * 3 and "segmentation" not in page.text.partition("Pictures")[2]


# pictures


def test_pictures_of_a_section_have_the_colours_of_the_annotated_cells():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 30, (2, 20, 20)).repeat(8, axis=1).repeat(8, axis=2).astype(np.uint32)
    raw = rng.integers(0, 255, (1, *labels.shape)).astype(np.uint8)
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[:, :16] = 1
    other = np.where(labels == labels[1, 80, 80], 0, labels * 7 + 3)  # one cell is missing
    found = section_pictures(raw, labels, ignore, {"same": labels * 7 + 3, "other": other}, 1)
    assert [*found] == ["raw image", "annotation", "same", "other"]
    differs = (found["same"] != found["other"]).any(axis=2)
    assert differs[16:].any() and not differs[labels[1] != labels[1, 80, 80]].any()
    assert (found["raw image"] == found["raw image"][..., :1]).all()
    outlined = (found["annotation"] == rgb(ANNOTATED)).all(axis=2)
    assert np.array_equal(outlined[16:], outlines(np.where(ignore[1], 0, labels[1]))[16:])


def test_only_the_middle_of_a_large_section_is_shown():
    raw = np.zeros((1, 1, 700, 600), np.uint8)
    labels = np.arange(700 * 600, dtype=np.uint32).reshape(1, 700, 600)
    found = section_pictures(raw, labels, None, {"a": labels}, 0)
    assert {picture.shape for picture in found.values()} == {(512, 512, 3)}


@pytest.mark.parametrize("colours", [2, 256, 5000])
def test_pictures_are_stored_with_at_most_256_colours(colours):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (colours, 3)).astype(np.uint8)[rng.integers(0, colours, (90, 70))]
    image = Image.open(io.BytesIO(palette_png(picture)))
    assert image.mode == "P"
    difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - picture)
    assert difference.max() == 0 if colours <= 256 else difference.mean() < 20


def test_the_page_embeds_each_picture_once(study, written):
    images = [own for tag, own in written[0].elements if tag == "image"]
    assert len(images) == len(study.pictures) * (2 + len(VARIANTS))
    sizes = {Image.open(io.BytesIO(base64.b64decode(own["href"].partition(",")[2]))).size for own in images}
    assert sizes == {(64, 64)}
    shown = [own["href"] for tag, own in written[0].elements if tag == "use" and own.get("href")]
    assert sorted(shown) == sorted(f"#{own['id']}" for own in images)


# curves


def test_curves_pass_through_their_points():
    """Points that lie on ticks are drawn at the ticks; on a logarithmic axis, ratios are distances."""
    x, y = np.array([0.0, 5, 10]), np.array([0.1, 1.0, 10.0])
    chart = curves_chart({"a": [Curve(x, y)]}, logarithmic=True)
    [points] = chart["lines"]["a"]
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    across, up = ({float(text): at for at, text in chart[axis]} for axis in "xy")
    assert places == [(across[0], up[0.1]), (across[10] / 2 + across[0] / 2, up[1]), (across[10], up[10])]
    assert up[0.1] - up[1] == pytest.approx(up[1] - up[10], abs=0.2)


def test_a_validation_without_a_score_leaves_out_its_point():
    chart = curves_chart({"a": [Curve(np.arange(4.0), np.array([0.5, np.nan, 0.7, 0.8]))]})
    assert len(chart["lines"]["a"][0].split()) == 3


def test_the_line_of_a_variant_is_the_mean_of_its_models(study, written):
    """The time axis ends with the longest training, which took 4 min and 2 s."""
    lines = [own for tag, own in written[0].elements if tag == "polyline"]
    assert len(lines) == 2 * len(VARIANTS) * (1 + 3)
    own = [line["points"].split() for line in lines[:4]]
    heights = np.array([[float(point.partition(",")[2]) for point in points] for points in own])
    losses = [pd.read_csv(model.history).validation_loss for model in study.models[:3]]
    # on the logarithmic axis the mean is between the models
    assert np.all((heights[1:].min(0) <= heights[0]) & (heights[0] <= heights[1:].max(0)))
    assert (
        np.argsort(heights[:, 5])[::-1].tolist()
        == np.argsort([np.mean([loss[5] for loss in losses]), *(loss[5] for loss in losses)]).tolist()
    )
    assert "minutes of training" in written[0].text


def test_the_end_of_the_lowest_line_is_visible():
    """It has less than a tenth of the values, so that all of it could be left out."""
    x = np.arange(50.0)
    curves = {f"good{k}": [Curve(x, np.linspace(0.8, 1, 50))] for k in range(20)}
    curves["low"] = [Curve(x, np.linspace(0, 0.2, 50))]
    chart = curves_chart(curves)
    bottom = chart["inside"][1] + chart["inside"][3]
    first, *_, last = (float(point.split(",")[1]) for point in chart["lines"]["low"][0].split())
    assert last == pytest.approx(bottom, abs=0.1)
    assert first > bottom
