"""Train bordure with the config of the data set, for the minutes instead of its iterations."""

import importlib
import sys
from pathlib import Path

import yaml
from contract import Run

ROOT = Path(__file__).resolve().parents[3]
#: Config of a data set, if it has another name.
CONFIGS = {"isbi2012": "isbi2012-affinities"}
VALIDATIONS = 20  # of a training, as by `minutes` of `api.train`
CRITERIA = {"membranes": "v_rand_thin", "objects": "seg"}  # as for the peers without a rule of their own


def main():
    run = Run()
    sys.path.insert(0, str(ROOT))
    names = ("api", "provenance", "networks.modelfile", "instances.methods")
    api, provenance, modelfile, methods = (importlib.import_module(f"pipeline_lib.{name}") for name in names)
    config = yaml.safe_load((ROOT / "config" / f"{CONFIGS.get(run.name, run.name)}.yaml").read_text())
    for key in ("volumes", "data_dir", "results", "report"):
        config.pop(key, None)
    for key in ("iterations", "validation_interval"):  # follow from the minutes
        config["training"].pop(key, None)
    if run.given_iterations:
        config["training"]["iterations"] = run.given_iterations
        config["training"]["validation_interval"] = -(-run.given_iterations // VALIDATIONS)
    config.setdefault("segmentation", {})["criterion"] = CRITERIA[run.kind]

    def paths(split, what):
        return [run.path(split, what, name) for name in run.names[split]]

    with run.timed("all"):
        model = api.train(
            paths("train", "images"),
            paths("train", "labels"),
            validation=(paths("validation", "images"), paths("validation", "labels")),
            model=run.out / "model.pt",
            minutes=None if run.given_iterations else run.minutes,
            folder=run.out / "bordure",
            threads=run.threads,
            seed=run.seed,
            **config,
        )
    described = modelfile.describe(run.out / "model.pt")
    record = provenance.find_record(run.out / "bordure/models/unet/model.pt")
    network, training = (record["settings"][section] for section in ("network", "training"))
    settings = described["application"]["postprocessing"]
    run.seconds["training"] = record["seconds"]  # with validations
    run.seconds_per_iteration = record["seconds"] / training["iterations"]
    run.seconds["preparation"] = run.seconds.pop("all") - record["seconds"]
    learns_pairs = bool(described.get("offsets"))
    run.predict(lambda image: {"labels": model.predict(image)})
    run.finish(
        iterations=training["iterations"],
        parameters=described["parameters"],
        settings={
            "network": f"U-Net, depth {network['depth']}, {network['base_channels']} channels",
            "target": "cells without separation border, weight map" + ", affinities" * learns_pairs,
            "patch": [training["tile"]] * 2,
            "batch": training["batch"],
            "loss": "weighted cross entropy" + ", Dice of the affinities" * learns_pairs,
            "optimizer": training["optimizer"],
            "learning_rate": f"{training['learning_rate']}, cosine to 0",
            "precision": record["environment"]["precision"],
            "state": "best validation loss",
            "prediction": "mean of 8 orientations",
            "instances": f"{methods.described(settings)}, chosen by validation",
        },
        packages=("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
