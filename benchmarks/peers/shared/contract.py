"""What each training program reads and writes. It runs in the environments of the peers (numpy, tifffile).

    python train.py DATA OUT --minutes 10 --seed 0 --threads 2

DATA has `data.json` (`name`, `kind`, and the names of the images of each split) and, for each split:

    train/images/NAME.tif        (y, x) image
    train/labels/NAME.tif        (y, x) instance labels, 0 = background; not for the test split
    train/cells/NAME.tif         (y, x) 1 = cell, 0 = background or separation border; not for the test split

OUT gets `validation/` and `test/`, with `NAME_labels.tif` (instances) if the peer makes its own, else
`NAME_probability.tif` (cell probability, float32, 0..1), and `run.json`.

The training time counts training steps with their patches, but no validation, as in a study of bordure: the
time of a step is measured first, and the schedule gets as many steps as fit into the minutes. `--iterations`
states their number, if their time was measured before.
"""

import argparse
import contextlib
import json
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import tifffile

SPLITS = ("train", "validation", "test")


class Run:
    """One training of a peer: its arguments, its images and what it writes."""

    def __init__(self, arguments=None):
        parser = argparse.ArgumentParser()
        parser.add_argument("data", type=Path, help="folder with data.json")
        parser.add_argument("out", type=Path, help="folder to write to")
        parser.add_argument("--minutes", type=float, required=True, help="time of the training steps (min)")
        parser.add_argument("--seed", type=int, required=True)
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--iterations", type=int, help="number of steps, instead of measuring their time")
        given = parser.parse_args(arguments)
        self.data, self.out = given.data.resolve(), given.out.resolve()
        self.minutes, self.seed, self.threads = given.minutes, given.seed, given.threads
        self.given_iterations = given.iterations
        described = json.loads((self.data / "data.json").read_text())
        self.name, self.kind, self.names = described["name"], described["kind"], described["images"]
        self.seconds = {}
        self.seconds_per_iteration = None

    def path(self, split, what, name):
        """Return the path of an image, its labels or its cells."""
        return self.data / split / what / f"{name}.tif"

    def read(self, split, what="images"):
        """Return all arrays of a split: `images`, `labels` or `cells`."""
        return [tifffile.imread(self.path(split, what, name)) for name in self.names[split]]

    @contextlib.contextmanager
    def timed(self, what):
        """Add the time of the block to `seconds[what]`."""
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0) + time.perf_counter() - start

    def iterations(self, step):
        """Return how many training steps fit into the minutes, from the mean time of some of them.

        This takes a tenth of the minutes, at most 30 s, but at least three steps after two to warm up. With
        `--iterations`, nothing is measured.
        """
        if self.given_iterations:
            return self.iterations_of(60 * self.minutes / self.given_iterations)
        with self.timed("measurement"):
            for _ in range(2):
                step()
            limit, count, start = min(6 * self.minutes, 30), 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < limit or count < 3:
                step()
                count += 1
        self.seconds_per_iteration = spent / count
        return self.iterations_of(self.seconds_per_iteration)

    def iterations_of(self, seconds_per_iteration):
        """Return how many steps of a known duration fit into the minutes."""
        self.seconds_per_iteration = seconds_per_iteration
        return max(round(60 * self.minutes / seconds_per_iteration), 1)

    def save(self, split, name, *, labels=None, probability=None):
        """Write the predicted labels or the cell probability of an image (y, x)."""
        (self.out / split).mkdir(parents=True, exist_ok=True)
        if labels is not None:
            tifffile.imwrite(self.out / split / f"{name}_labels.tif", np.asarray(labels, np.uint32))
        else:
            values = np.clip(np.asarray(probability, np.float32), 0, 1)
            tifffile.imwrite(self.out / split / f"{name}_probability.tif", values)

    def predict(self, predict):
        """Apply a function to all images of validation and test split; it returns keywords of `save`."""
        with self.timed("prediction"):
            for split in SPLITS[1:]:
                for name, image in zip(self.names[split], self.read(split), strict=True):
                    self.save(split, name, **predict(image))

    def finish(self, *, iterations, parameters, settings, packages):
        """Write `run.json`."""
        described = {
            "iterations": int(iterations),
            "parameters": int(parameters),
            "seconds_per_iteration": self.seconds_per_iteration,
            "seconds": self.seconds,
            "settings": settings,
            "versions": {name: metadata.version(name) for name in packages},
        }
        (self.out / "run.json").write_text(json.dumps(described, indent=1))
