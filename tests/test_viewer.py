"""The viewer of the report in a browser: what is shown after keys, clicks and movements of the pointer."""

from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.pages import environment
from pipeline_lib.pages.viewer import viewer_content
from pipeline_lib.runtime.files import read_json
from tests.browser import BROWSER, Browser
from tests.layer_pictures import layers_of
from tests.test_layers import write_case

PAGE = """{% extends "page.html.jinja" %}{% import "viewer.html.jinja" as viewing %}
{% block title %}Test{% endblock %}
{% block style %}{{ viewing.style() }}{% endblock %}
{% block body %}{{ viewing.pictures(viewer.volumes) }}{{ viewing.viewer(viewer) }}
<details id="stills" open>{{ viewing.stills(viewer.volumes) }}</details>
{{ viewing.gallery(viewer.errors, viewer.volumes) }}{{ viewing.script(viewer) }}{% endblock %}"""
TOOLS = Path(__file__).with_name("viewer_tools.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three volumes: four cells with errors in the second section, one without annotation, a cut one."""
    folder = tmp_path_factory.mktemp("viewer")
    labels = np.zeros((2, 60, 50), np.uint32)
    for label, (y, x) in enumerate([(2, 2), (2, 26), (32, 2), (32, 26)], 1):
        labels[:, y : y + 26, x : x + 22] = 10 * label
    found = labels.copy()
    found[1][labels[1] == 20] = 10  # merged
    found[1, 10:16, 24:26] = 10
    found[1][labels[1] == 40] = 0  # missed
    write_case(folder, labels, found, pixel_size=(0.5, 0.5))
    content = [
        read_json(layers_of(folder, f"{name}.h5", f"{volume}.json", volume=volume))
        for name, volume in (("dataset", "first"), ("unannotated", "second"))
    ]
    content.append(cut_volume(tmp_path_factory.mktemp("cut")))
    text = environment().from_string(PAGE).render(viewer=viewer_content(content), bordure="1.0")
    (folder / "page.html").write_text(text, encoding="utf-8")
    return folder / "page.html"


def cut_volume(folder):
    """Show 40 of 100 rows. Pixels have 4 nm. Cell 1 continues outside, 2 is merged into it, 4 is false."""
    labels = np.zeros((1, 100, 60), np.uint32)
    labels[0, :, 20:30] = 1
    labels[0, 40:50, 31:35] = 2
    labels[0, 40:45, 40:45] = 3
    found = labels.copy()
    found[0, 40:50, 30:35] = 1
    found[0, 55:60, 40:45] = 4
    write_case(folder, labels, found, pixel_size=(0.004, 0.004))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline_lib.figures.shown.SMALLEST", 40)
        patch.setattr("pipeline_lib.figures.shown.LARGEST", 40)
        patch.setattr("pipeline_lib.stages.layers.MARGIN", 10)
        return read_json(layers_of(folder, volume="third", split="train"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("needs Chromium or Chrome")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browse(page, browser):
    """Return a function that opens the page, runs steps and returns what they collected in `out`."""

    def run(steps):
        browser.open(page)
        out = browser.run(f"{TOOLS} await wait(); const out = {{}}; {steps} return out;")
        assert browser.problems() == []
        return out

    return run


def test_sections_volumes_and_layers_are_chosen(browse):
    out = browse("""
      out.start = [place(), layers()];
      await set("#viewer-section", 1, "input");
      out.slid = [place(), q(".layers use").getAttribute("href")];
      await key("ArrowLeft");
      out.left = place();
      await key("ArrowRight");
      out.right = place();
      await key("ArrowRight");
      out.end = place();
      await click('.layer[data-layer="probability"] input');
      out.probability = layers();
      await set('.layer[data-layer="errors"] input[type=range]', 0.3, "input");
      out.opacity = q('.layers [data-layer="errors"]').getAttribute("opacity");
      await key("1");
      out.withoutRaw = layers();
      await key("1");
      await click("#viewer-areas");
      out.areas = q('.layers [data-layer="cells"]').tagName;
      await click("#viewer-lines");
      out.lines = q('.layers [data-layer="cells"]').tagName;
      await key("ArrowDown");
      out.second = [place(), layers(), q("#viewer-volume").value, q("#viewer-blink").hidden];
      out.stills = q("#stills").open;
    """)
    assert out["start"] == ["section 1 of 2", ["raw", "errors", "annotation", "cells"]]
    assert out["slid"] == ["section 2 of 2", "#v0s1-raw"]
    assert (out["left"], out["right"], out["end"]) == ("section 1 of 2", "section 2 of 2", "section 2 of 2")
    assert out["probability"] == ["raw", "probability", "errors", "annotation", "cells"]
    assert out["opacity"] == "0.3" and out["withoutRaw"] == out["probability"][1:]
    assert (out["areas"], out["lines"]) == ("use", "image")
    assert out["second"] == ["section 1 of 2", ["raw", "probability", "cells"], "1", True]
    assert out["stills"] is False


def test_blinking_raw_and_side_by_side(browse):
    out = browse("""
      await key("b");
      out.first = layers();
      await key("b");
      out.second = layers();
      await key("r");
      out.raw = layers();
      await key("Escape");
      out.all = layers();
      await click("#viewer-beside");
      out.beside = [layers(0), layers(1)];
      await key("+");
      out.views = all(".pane svg").map((one) => one.getAttribute("viewBox"));
    """)
    assert out["first"] == ["raw", "errors", "annotation"] and out["second"] == ["raw", "errors", "cells"]
    assert out["raw"] == ["raw"] and out["all"] == ["raw", "errors", "annotation", "cells"]
    assert out["beside"] == [["raw", "annotation"], ["raw", "errors", "cells"]]
    assert out["views"][0] == out["views"][1] != "0 0 50 60"


def test_blinking_ends_in_a_volume_without_annotation(browse):
    out = browse("""
      await key("b");
      out.first = layers();
      await key("ArrowDown");
      out.second = layers();
      await key("b");
      out.again = layers();
      await key("ArrowUp");
      out.back = layers();
    """)
    assert out["first"] == ["raw", "errors", "annotation"]
    assert out["second"] == out["again"] == ["raw", "cells"]
    assert out["back"] == ["raw", "errors", "annotation", "cells"]


def test_zoom_and_pan_stay_inside_and_the_bar_has_its_length(browse):
    out = browse("""
      out.bar = [q(".bar span").textContent, q(".bar i").style.width];
      await key("+");
      out.zoomed = view();
      await key("ArrowLeft", { shiftKey: true });
      out.moved = view();
      for (let k = 0; k < 30; k++) await key("ArrowRight", { shiftKey: true });
      out.edge = view();
      await key("0");
      out.whole = view();
      await key("+");
      const before = view();
      await point("down", 25, 30);
      await point("move", 20, 30);
      await point("up", 20, 30);
      out.dragged = view()[0] - before[0];
    """)
    assert out["bar"] == ["5 µm", "20%"]  # 10 of 50 px
    assert out["zoomed"] == pytest.approx([50 / 6, 10, 50 / 1.5, 40])
    assert out["moved"] == pytest.approx([5, 10, 50 / 1.5, 40])
    assert out["edge"][0] == pytest.approx(50 - 50 / 1.5) and out["whole"] == [0, 0, 50, 60]
    assert out["dragged"] == pytest.approx(5, abs=0.1)


def test_cells_are_described_marked_and_found_in_the_table(browse):
    out = browse("""
      await key("ArrowRight");
      await point("move", 30, 10);
      out.merged = described();
      out.shape = q(".marked").getAttribute("d");
      await point("move", 30, 40);
      out.missed = described();
      await point("move", 49, 0);
      out.nothing = described();
      await point("down", 5, 40);
      await point("up", 5, 40);
      out.picked = q("#viewer-table tr.picked").innerText.split("\\t");
      out.open = q("#viewer-table").open;
      out.heads = all("#viewer-table th").map((one) => one.innerText);
      out.focus = document.activeElement.id;
      await key("+");
      await click('#viewer-table tr[data-cell="1"]');
      out.row = described();
      await click("#viewer-table th:nth-child(2) button");
      out.sorted = rows();
      await click("#viewer-table th:nth-child(2) button");
      out.reversed = rows();
    """)
    assert "Found cell 10" in out["merged"] and "matches annotated cell 10" in out["merged"]
    assert "area (µm²) 289" in out["merged"]  # 1,156 px of 0.25 µm²
    assert "Annotated cell 20" in out["merged"] and "merged into found cell 10" in out["merged"]
    assert out["shape"].startswith("M2 2h22v1h-22z")
    assert "Annotated cell 40" in out["missed"] and "not found (missed)" in out["missed"]
    assert "Point at a cell" in out["nothing"]
    assert out["open"] and out["focus"] == "viewer"
    assert dict(zip(out["heads"], out["picked"], strict=True))["cell"] == "30"
    assert "matches annotated cell 30" in out["picked"][-1] and out["heads"][-1] == "annotation"
    assert "Found cell 10" in out["row"]
    assert out["sorted"] == [*reversed(out["reversed"])] == ["2", "1"]  # by area


def test_tiny_areas_have_digits_and_sizes_of_cut_cells_are_unknown(browse):
    out = browse("""
      await set("#viewer-volume", 2, "change");
      await point("move", 32, 12);
      out.small = described();
      await point("move", 12, 30);
      out.cut = described();
      await point("move", 22, 12);
      out.merged = described();
      out.table = all("#viewer-table tbody tr").map((row) => all("td", row).map((one) => one.textContent));
    """)
    assert "Found cell 3\nmatches annotated cell 3\narea (µm²) 0.0004\ndiameter (µm) 0.02257" in out["small"]
    assert "Found cell 1\ncontinues far outside of the picture\narea (µm²) unknown" in out["cut"]
    assert "Annotated cell 1\ncontinues far outside of the picture\narea (px) unknown" in out["cut"]
    assert "Annotated cell 2\nnot compared" in out["merged"] and "area (px) 40" in out["merged"]
    assert out["table"][0] == ["1", *["unknown"] * 6, "continues far outside of the picture"]
    assert "unknown" not in out["table"][1]
    assert out["table"][2][-2:] == ["", "no annotated cell (false)"]  # without IoU


def test_the_worst_errors_open_in_the_viewer(browse):
    out = browse("""
      out.links = all(".gallery a").map((one) => one.innerText);
      await click(".gallery a");
      out.opened = [place(), view(), layers().includes("errors"), document.activeElement.id];
    """)
    assert [text.split(",")[0].strip() for text in out["links"]] == ["merged", "missed"]
    assert out["opened"] == ["section 2 of 2", [0, 0, 50, 60], True, "viewer"]
