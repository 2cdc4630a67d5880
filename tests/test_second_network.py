"""The workflow runs with a network of another package, without a change to bordure."""

import os

import h5py
import pytest
import tifffile
import warm
from test_workflow import CONFIG, ROOT, write

from pipeline_lib.networks.model import Model
from pipeline_lib.provenance import find_record

NETWORK = '''
"""A network with three convolutions, for sizes in steps of 4 px."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline_lib.networks import Geometry, Plan
from pipeline_lib.networks.plan import setting


@dataclass(frozen=True)
class TinyPlan(Plan):
    name: ClassVar[str] = "tiny"
    smaller: ClassVar[str] = "lower `network.width`"
    width: int = setting(4, "Channels of the hidden layers.", minimum=1)

    @property
    def geometry(self):
        return Geometry(stride=4, smallest=14, context=5)

    @property
    def parameters(self):
        hidden = (9 * self.input_channels + 1) * self.width + (9 * self.width + 1) * self.width
        return hidden + (self.width + 1) * self.classes

    @property
    def values_per_pixel(self):
        return 4 * self.width

    def step_bytes_per_pixel(self, precision):
        return 40 * self.width

    def build(self):
        from torch import nn

        from pipeline_lib.networks.module import Network

        class Tiny(Network):
            def __init__(self, plan):
                super().__init__(plan)
                self.layers = nn.Sequential(
                    nn.Conv2d(plan.input_channels, plan.width, 3),
                    nn.ReLU(),
                    nn.MaxPool2d(4),
                    nn.Conv2d(plan.width, plan.width, 3),
                    nn.ReLU(),
                    nn.Upsample(scale_factor=4),
                    nn.Conv2d(plan.width, plan.classes, 1),
                )

            def forward(self, x):
                return self.layers(x)

        return Tiny(self)
'''


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Return a folder like one that pip installs: a module and its entry point."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "tiny_network.py").write_text(NETWORK)
    (folder / "tiny-1.0.dist-info").mkdir()
    (folder / "tiny-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (folder / "tiny-1.0.dist-info/entry_points.txt").write_text("[bordure.networks]\ntiny = tiny_network\n")
    return folder


@pytest.fixture
def installed(package, monkeypatch):
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(package), path])))
    monkeypatch.syspath_prepend(package)


def snakemake(directory, *arguments):
    where = ["--snakefile", ROOT / "Snakefile", "--directory", directory, "--cores", "2"]
    return warm.snakemake(*where, *arguments)


def config(training=(), **network):
    changed = CONFIG["training"] | {"tile": 62} | dict(training)
    return CONFIG | {"network": {"name": "tiny", **network}, "training": changed}


@pytest.mark.slow
def test_workflow_runs_with_another_network(installed, tmp_path):
    arguments = write(tmp_path, config(width=3))
    # without baselines, pictures and report, which do not know the network
    answer = snakemake(
        tmp_path, *arguments, "--", "results/model.pt", "results/segmentation/score_labels.tif"
    )
    assert answer.returncode == 0, answer.stderr
    path = tmp_path / "results/models/tiny/model.pt"
    model = Model.load(path)
    assert (model.plan.name, model.plan.width) == ("tiny", 3)
    assert find_record(path)["settings"]["network"] == {"name": "tiny", "width": 3}
    with h5py.File(tmp_path / "results/prediction/tiny/score.h5") as file:
        probability = file["cell_probability"][:]
    assert probability.std() > 0
    assert tifffile.imread(tmp_path / "results/segmentation/score_labels.tif").max() > 0
    assert {*Model.load(tmp_path / "results/model.pt").application["scores"]} == {"validation", "test"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            config(depth=2),
            "`network.depth`: unknown. It is a setting of unet; the chosen network has context_sections, "
            "width.",
        ),
        (config(width=0), "`network.width`: found 0. Expected an integer of at least 1"),
        (
            config({"tile": 64}),
            "training.tile: a tile of 64 px is not valid for this network. Valid sizes are 14, ",
        ),
        (config(width=10**5), "training on tiles of 62 px needs"),
        (
            config() | {"network": {"name": "huge"}},
            '`network.name`: found "huge". Expected fcn32s or fcn16s or fcn8s or patch_classifier or ssd '
            "or unet or tiny",
        ),
        (CONFIG | {"network": {"width": 3}}, "`network.width`: unknown. It is a setting of tiny; the chosen"),
    ],
)
def test_dry_run_rejects_invalid_settings_of_another_network(installed, tmp_path, settings, message):
    answer = snakemake(tmp_path, "-n", *write(tmp_path, settings))
    assert answer.returncode == 1 and message in answer.stderr
