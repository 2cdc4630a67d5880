"""Measure memory and time of a detector on large images: `python -m benchmarks.bench_detection`.

This takes ten minutes. As `bench_large`, whose options it has, but with a small `ssd` that is trained before:
from a drawn section of each size to boxes, and to files of them.
"""

from __future__ import annotations

from benchmarks.bench_large import CORES, MEMORY_GB, Job, main, training_data

NETWORK = {"name": "ssd", "channels": [8, 8, 16, 16, 16], "convolutions": 1, "heads": 2}
TRAINING = {
    "tile": 238,
    "batch": 2,
    "iterations": 3000,
    "optimizer": "adam",
    "learning_rate": 0.003,
    "validation_interval": 1000,
    "best_by": "box_ap_50",
}


def preparation() -> list[Job]:
    """Return the jobs that make `model.pt`."""
    sets = [["train.h5"], ["train.h5"], ["validation.h5"], ["validation.h5"]]
    settings = {"network": NETWORK, "training": TRAINING, "augmentation": {}, "seed": 0, "threads": CORES}
    files = [*sets, "statistics.json", "model.pt", "history.csv"]
    boxes = {"network": NETWORK}
    return [
        *training_data(),
        Job("choose_boxes", "pipeline_lib.stages.boxes.choose_boxes", [["train.h5"], "boxes.json"], boxes),
        Job("train", "pipeline_lib.stages.training.train", files, settings | {"boxes": "boxes.json"}),
    ]


def measured(side: int) -> list[Job]:
    """Return the jobs to measure on a section of `side` x `side` px, in order."""
    shape = (1, side, side)
    exports = ["table.csv", "counts.csv", "rois.zip", "boxes.geojson", "coco.json"]
    return [
        Job("draw images", "benchmarks.drawing.draw_images", ["images.tif"], {"size": side}),
        Job(
            "build_dataset",
            "pipeline_lib.stages.dataset.build_dataset",
            ["images.tif", None, "dataset.h5"],
            unneeded=["images.tif"],
        ),
        Job(
            "predict",
            "pipeline_lib.stages.prediction.predict",
            ["dataset.h5", "model.pt", "prediction.h5"],
            {"memory_gb": MEMORY_GB, "threads": CORES},
            unneeded=["dataset.h5"],
        ),
        Job(
            "detect",
            "pipeline_lib.stages.detection.detect",
            [["prediction.h5"], "detections.h5"],
            {"shape": shape},
            unneeded=["prediction.h5"],
        ),
        Job(
            "export_detections",
            "pipeline_lib.stages.detection.export_detections",
            ["detections.h5", "postprocessing.json", *exports],
            {"volume": "drawn", "shape": shape},
            unneeded=["detections.h5", *exports],
        ),
    ]


if __name__ == "__main__":
    main("detection", preparation, measured)
