"""Train nnU-Net v2 in 2D, planned by its own planner.

Membranes are a class, and the probability of background is that of cells. Instances of objects are learned
and found through border and core, by functions of the same authors (acvl_utils).
"""

import contextlib
import os
import shutil
import time

import numpy as np
import tifffile
import torch
from contract import Run

# The planner fits patch and batch into the memory of a GPU, 8 GB by default. For images of 512 x 512 px it
# then plans two whole images; two cores make too few such steps in ten minutes. With the lower target it
# plans two patches of 256 x 256 px, as by default for the nuclei.
MEMORY_GB = {"membranes": 0.33, "objects": 8}
STEPS = 25  # of an epoch, with a fifth for validation; 250 by default, too many for a short training
NUMBER, BORDER = 1, 2.0  # of the data set; width of the border of objects (px), the default of acvl_utils
NAME = "Dataset001_peers"


def semantic(run, labels, cells):
    """Return what nnU-Net learns: 1 = membrane, or 1 = core and 2 = border."""
    from acvl_utils.instance_segmentation import instance_as_semantic_seg as instances

    if run.kind == "membranes":
        return (cells == 0).astype(np.uint8)
    spacing = (1000, 1, 1)  # a section has no neighbours
    whole = instances.convert_instanceseg_to_semantic_patched(labels[None].astype(np.uint32), spacing, BORDER)
    return whole[0].astype(np.uint8)


def export(run, folder):
    """Write training and validation images as a raw data set of nnU-Net; return its split."""
    from batchgenerators.utilities.file_and_folder_operations import save_json

    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    split = {}
    for own, theirs in (("train", "train"), ("validation", "val")):
        split[theirs] = run.names[own]
        annotated = zip(run.names[own], run.read(own, "labels"), run.read(own, "cells"), strict=True)
        for name, labels, cells in annotated:
            shutil.copy(run.path(own, "images", name), folder / "imagesTr" / f"{name}_0000.tif")
            tifffile.imwrite(folder / "labelsTr" / f"{name}.tif", semantic(run, labels, cells))
    classes = {"membrane": 1} if run.kind == "membranes" else {"core": 1, "border": 2}
    described = {
        "channel_names": {"0": "gray"},
        "labels": {"background": 0} | classes,
        "numTraining": sum(map(len, split.values())),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    save_json(described, str(folder / "dataset.json"))
    return split


def main():
    run = Run()
    folders = {part: run.out / "nnunet" / part for part in ("raw", "preprocessed", "results")}
    for part, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{part}"] = str(folder)
    # one process makes patches beside the training; the second number is that of threads of the prediction
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": str(run.threads)}

    from batchgenerators.utilities.file_and_folder_operations import load_json, save_json
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(run.threads)
    with run.timed("preparation"):
        split = export(run, folders["raw"] / NAME)
        planning.extract_fingerprints([NUMBER], num_processes=1)
        identifier = planning.plan_experiments([NUMBER], gpu_memory_target_in_gb=MEMORY_GB[run.kind])
        planning.preprocess([NUMBER], identifier, configurations=("2d",), num_processes=(1,))
        preprocessed = folders["preprocessed"] / NAME
        save_json([split], str(preprocessed / "splits_final.json"))

    def trainer(epochs, steps):
        torch.manual_seed(run.seed)
        np.random.seed(run.seed)
        plans = load_json(str(preprocessed / f"{identifier}.json")) | {"continue_training": False}
        described = load_json(str(preprocessed / "dataset.json"))
        made = nnUNetTrainer(plans, "2d", 0, described, torch.device("cpu"))
        made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = steps, max(steps // 5, 1)
        made.num_epochs = epochs
        return made

    measured = trainer(1, 1)
    with contextlib.redirect_stdout(None):
        measured.on_train_start()
    measured.network.train()
    iterations = run.iterations(lambda: measured.train_step(next(measured.dataloader_train)))
    measured.on_train_end()

    steps = min(iterations, STEPS)
    trained = trainer(max(round(iterations / STEPS), 1), steps)
    step, seconds = trained.train_step, 0.0
    ended = None

    def timed_step(batch):
        nonlocal seconds, ended
        found = step(batch)
        now = time.perf_counter()
        seconds += now - ended
        ended = now
        return found

    def timed_start():
        nonlocal ended
        start()
        ended = time.perf_counter()

    start, trained.train_step, trained.on_train_epoch_start = (
        trained.on_train_epoch_start,
        timed_step,
        timed_start,
    )
    begun = time.perf_counter()
    trained.run_training()
    run.seconds |= {"training": seconds, "validation": time.perf_counter() - begun - seconds}

    trained.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=True, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trained.network.eval(),
        trained.plans_manager,
        trained.configuration_manager,
        [trained.network.state_dict()],
        trained.dataset_json,
        "nnUNetTrainer",
        trained.inference_allowed_mirroring_axes,
    )

    def predict(image):
        from acvl_utils.instance_segmentation import instance_as_semantic_seg as instances

        whole = image[None, None].astype(np.float32)
        classes, probabilities = predictor.predict_single_npy_array(
            whole, {"spacing": (999, 1, 1)}, save_or_return_probabilities=True
        )
        if run.kind == "membranes":
            return {"probability": probabilities[0, 0]}
        return {"labels": instances.convert_semantic_to_instanceseg(classes.astype(np.uint8))[0]}

    run.predict(predict)
    plan = trained.configuration_manager
    run.finish(
        iterations=trained.num_epochs * steps,
        parameters=sum(p.numel() for p in trained.network.parameters()),
        settings={
            "network": f"PlainConvUNet, features {list(plan.network_arch_init_kwargs['features_per_stage'])}",
            "target": "membrane" if run.kind == "membranes" else f"core and border of {BORDER:g} px",
            "patch": list(map(int, plan.patch_size)),
            "batch": plan.batch_size,
            "gpu_memory_target_gb": MEMORY_GB[run.kind],
            "loss": "Dice and cross entropy, deep supervision",
            "optimizer": "SGD, Nesterov momentum 0.99",
            "learning_rate": f"{trained.initial_lr}, polynomial to 0",
            "augmentation": "that of nnU-Net",
            "precision": "float32",
            "epochs": trained.num_epochs,
            "steps_per_epoch": steps,
            "prediction": "sliding window, overlap 0.5, mean of 4 flips",
            "instances": "components of the probability above a threshold chosen on the validation split"
            if run.kind == "membranes"
            else "convert_semantic_to_instanceseg of acvl_utils",
        },
        packages=("nnunetv2", "acvl-utils", "dynamic-network-architectures", "torch", "numpy"),
    )


if __name__ == "__main__":
    main()
