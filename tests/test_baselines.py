import numpy as np
import pytest

from pipeline_lib import baselines


@pytest.mark.parametrize("bright", [True, False])
def test_smoothed_raw_makes_cells_one_whether_bright_or_dark(bright):
    rng = np.random.default_rng(0)
    labels = np.zeros((2, 40, 40), int)
    labels[:, 5:35, 5:18], labels[:, 5:35, 22:35] = 1, 2
    cells = labels > 0
    gray = np.where(cells == bright, 180, 60) + rng.normal(0, 20, cells.shape)
    raw = gray.clip(0, 255).astype(np.uint8)[None]
    measured = baselines.measure([(raw, labels, np.zeros_like(labels))])
    assert (measured["low"] < measured["high"]) == bright
    statistics = {"class_frequencies": [0.4, 0.6], "smoothed_raw": measured}
    p = baselines.cell_probability("smoothed_raw", raw[:, 0], statistics)
    assert p.dtype == np.float32 and 0 <= p.min() < 0.1 and 0.9 < p.max() <= 1
    assert p[cells[0]].mean() > 0.7 > 0.4 > p[~cells[0]].mean()
    assert (baselines.cell_probability("constant", raw[:, 0], statistics) == np.float32(0.6)).all()
