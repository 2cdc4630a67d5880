"""Train StarDist 2D as in its example (examples/2D/2_training.ipynb), with its own choice of thresholds.

Only for nuclei: StarDist describes each object by a star-convex polygon, which the branched, long sections of
neurites are not.
"""

import os
import time
import warnings

import numpy as np
from contract import Run

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
from csbdeep.utils import normalize
from stardist import fill_label_holes
from stardist.models import Config2D, StarDist2D

# The default schedule is 400 epochs of 100 steps, and halves the learning rate after 40 epochs without
# progress. It is compressed: the same shape in 40 epochs, of as many steps as fit into the time.
EPOCHS = 40
SHARE = Config2D().train_epochs // EPOCHS


class Clock(tf.keras.callbacks.Callback):
    """Times of the ends of all steps, and of the beginnings of all epochs."""

    def __init__(self):
        super().__init__()
        self.ends, self.steps_seconds = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())
        self.steps_seconds += self.ends[-1] - self.start
        self.start = self.ends[-1]


def augmented(image, labels):
    axes = tuple(np.random.permutation(2))
    image, labels = image.transpose(axes), labels.transpose(axes)
    for axis in range(2):
        if np.random.rand() > 0.5:
            image, labels = np.flip(image, axis), np.flip(labels, axis)
    image = image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    return image + 0.02 * np.random.rand() * np.random.normal(0, 1, image.shape), labels


def train(run, data, name, epochs, steps):
    """Return a trained model and the clock of its training."""
    tf.keras.utils.set_random_seed(run.seed)
    plateau = dict(Config2D().train_reduce_lr)
    plateau["patience"] = max(plateau["patience"] // SHARE, 1)
    config = Config2D(n_rays=32, grid=(2, 2), train_tensorboard=False, train_reduce_lr=plateau)
    model = StarDist2D(config, name=name, basedir=str(run.out / "model"))
    model.prepare_for_training()
    clock = Clock()
    model.callbacks.append(clock)
    images, labels, held_out = data
    model.train(
        images,
        labels,
        validation_data=held_out,
        augmenter=augmented,
        seed=run.seed,
        epochs=epochs,
        steps_per_epoch=steps,
    )
    return model, clock


def main():
    run = Run()
    if run.kind != "objects":
        raise SystemExit(f"error: {run.name}: StarDist needs star-convex objects.")
    tf.config.threading.set_intra_op_parallelism_threads(run.threads)
    tf.config.threading.set_inter_op_parallelism_threads(run.threads)
    warnings.filterwarnings("ignore")

    def scaled(image):
        return normalize(image, 1, 99.8, axis=(0, 1))

    with run.timed("preparation"):
        images, validation = (list(map(scaled, run.read(split))) for split in ("train", "validation"))
        labels, truth = (
            [fill_label_holes(own.astype(np.int32)) for own in run.read(split, "labels")]
            for split in ("train", "validation")
        )
    data = images, labels, (validation, truth)
    if run.given_iterations:
        iterations = run.iterations_of(60 * run.minutes / run.given_iterations)
    else:
        with run.timed("measurement"):
            _, clock = train(run, data, "measured", 1, 5 + max(round(2 * min(run.minutes, 10)), 3))
        iterations = run.iterations_of((clock.ends[-1] - clock.ends[4]) / (len(clock.ends) - 5))
    epochs = min(EPOCHS, iterations)
    steps = max(round(iterations / epochs), 1)
    start = time.perf_counter()
    model, clock = train(run, data, "trained", epochs, steps)
    run.seconds |= {"training": clock.steps_seconds}
    run.seconds |= {"validation": time.perf_counter() - start - clock.steps_seconds}
    with run.timed("choice"):
        thresholds = model.optimize_thresholds(validation, truth)
    run.predict(lambda image: {"labels": model.predict_instances(scaled(image))[0]})
    config = vars(model.config)
    run.finish(
        iterations=epochs * steps,
        parameters=model.keras_model.count_params(),
        settings={
            "network": f"U-Net, depth {config['unet_n_depth']}, {config['unet_n_filter_base']} filters",
            "target": f"{config['n_rays']} rays, grid {list(config['grid'])}",
            "patch": list(config["train_patch_size"]),
            "batch": config["train_batch_size"],
            "optimizer": "Adam",
            "learning_rate": f"{config['train_learning_rate']}, halved on plateaus",
            "augmentation": "flips, transposition, gray values, noise",
            "precision": "float32",
            "epochs": epochs,
            "state": "best validation loss",
            "instances": "own non-maximum suppression; thresholds by optimize_thresholds, validation split",
            "thresholds": {"prob": float(thresholds["prob"]), "nms": float(thresholds["nms"])},
        },
        packages=("stardist", "csbdeep", "tensorflow-cpu", "keras", "numpy"),
    )


if __name__ == "__main__":
    main()
