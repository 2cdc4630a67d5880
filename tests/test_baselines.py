import json

import numpy as np
import pytest

from pipeline_lib import layout
from pipeline_lib.layout import AnnotatedArrays
from pipeline_lib.stages.baselines import predict
from pipeline_lib.tasks.segmentation import baselines


@pytest.mark.parametrize("bright", [True, False])
def test_smoothed_raw_is_near_1_in_bright_and_in_dark_cells(bright):
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 40, 40), int)
    labels[:, 5:35, 5:18], labels[:, 5:35, 22:35] = 1, 2
    cells = labels > 0
    gray = np.where(cells == bright, 180, 60) + rng.normal(0, 20, cells.shape)
    raw = gray.clip(0, 255).astype(np.uint8)[None]
    measured = baselines.measure([layout.AnnotatedArrays(raw, labels, np.zeros_like(labels))])
    assert (measured["low"] < measured["high"]) == bright
    statistics = {"class_frequencies": [0.4, 0.6], "smoothed_raw": measured}
    p = baselines.cell_probability("smoothed_raw", raw[:, 0], statistics)
    assert p.dtype == np.float32 and 0 <= p.min() < 0.1 and 0.9 < p.max() <= 1
    assert p[cells[0]].mean() > 0.7 > 0.4 > p[~cells[0]].mean()
    assert (baselines.cell_probability("constant", raw[:, 0], statistics) == np.float32(0.6)).all()


@pytest.fixture
def volume():
    """Return raw (c, z, y, x), labels and border (z, y, x) with dark cells."""
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 255, (2, 2, 50, 61), np.uint8)
    labels = (raw.sum(axis=0) < 200).astype(np.uint32)
    return layout.AnnotatedArrays(raw, labels, np.zeros_like(labels))


@pytest.mark.parametrize("step", [5, 16, 48])
def test_gray_range_does_not_depend_on_the_blocks(volume, step, monkeypatch):
    whole = baselines.measure([volume])
    smoothed = [baselines.smooth(volume[0][:, z]) for z in range(2)]
    low, high = np.mean([np.percentile(gray, (1, 99)) for gray in smoothed], axis=0)
    assert whole == {"low": high, "high": low}
    monkeypatch.setattr(baselines, "STEP", step)
    assert baselines.measure([volume]) == whole
    monkeypatch.setattr(baselines, "SAMPLES", 800)  # of 50 x 61: every second pixel
    low, high = np.mean([np.percentile(gray[::2, ::2], (1, 99)) for gray in smoothed], axis=0)
    assert baselines.measure([volume]) == {"low": high, "high": low}


@pytest.mark.parametrize("network", baselines.BASELINES)
def test_prediction_does_not_depend_on_the_blocks(volume, network, tmp_path):
    raw = volume.raw
    statistics = {"class_frequencies": [0.4, 0.6], "smoothed_raw": baselines.measure([volume])}
    (tmp_path / "s.json").write_text(json.dumps(statistics))
    with layout.create(tmp_path / "a.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
    for block in (3, 16, 2048):
        predict(tmp_path / "a.h5", tmp_path / "s.json", tmp_path / "p.h5", network=network, block=block)
        with layout.require(tmp_path / "p.h5", layout.CELL_PROBABILITY) as file:
            for z in range(2):
                expected = baselines.cell_probability(network, raw[:, z], statistics)
                np.testing.assert_array_equal(file["cell_probability"][z], expected)


def test_few_cells_on_an_even_background_have_a_gray_range():
    raw = np.zeros((1, 1, 256, 256), np.uint8)
    labels = np.zeros(raw.shape[1:], np.uint32)
    labels[0, 20:30, 20:30] = 1
    raw[0][labels > 0] = 200
    volume = AnnotatedArrays(raw, labels, np.zeros_like(labels), None, None)
    span = baselines.measure([volume])
    assert span["low"] < span["high"]
    found = baselines.cell_probability("smoothed_raw", raw[:, 0], {"smoothed_raw": span})
    assert np.isfinite(found).all() and found[25, 25] > 0.9 > 0.1 > found[200, 200]
    even = baselines.measure([volume._replace(raw=np.zeros_like(raw))])
    statistics = {"smoothed_raw": even, "class_frequencies": [0.75, 0.25]}
    assert (baselines.cell_probability("smoothed_raw", raw[:, 0] * 0, statistics) == 0.25).all()
