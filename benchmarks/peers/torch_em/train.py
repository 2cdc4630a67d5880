"""Train torch-em's U-Net on foreground and affinities, segmented by its mutex watershed.

Target, loss and offsets are those of its examples (experiments/unet-segmentation: dsb/train_affinities.py,
neuron-segmentation/isbi2012/train_affinities_2d.py); network, learning rate and scheduler are its defaults.
"""

import functools
from importlib import metadata

import numpy as np
import torch
from contract import Run

# torch-em uses only functions for pictures of torchvision. The build on PyPI belongs to torch with CUDA. With
# a CPU build of torch its import fails, unless the compiled operators that it expects are declared.
if "+cpu" in torch.__version__ and "+cpu" not in metadata.version("torchvision"):
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torch_em
from torch_em.loss import ApplyAndRemoveMask, DiceLoss, LossWrapper
from torch_em.model import UNet2d
from torch_em.transform.label import AffinityTransform
from torch_em.transform.raw import get_raw_transform, normalize, standardize
from torch_em.util.prediction import predict_with_halo
from torch_em.util.segmentation import mutex_watershed_segmentation

OFFSETS = [[-1, 0], [0, -1], [-3, 0], [0, -3], [-9, 0], [0, -9], [-27, 0], [0, -27]]
RATE = 1e-3

# as in the examples: patch, batch, normalisation
RECIPES = {
    "membranes": ((512, 512), 1, functools.partial(normalize, minval=0, maxval=255)),
    "objects": ((256, 256), 4, standardize),
}


def main():
    run = Run()
    torch.set_num_threads(run.threads)
    patch, batch, normalise = RECIPES[run.kind]

    def loader(split):
        images, labels = (
            [str(run.path(split, what, name)) for name in run.names[split]] for what in ("images", "labels")
        )
        return torch_em.default_segmentation_loader(
            images,
            None,
            labels,
            None,
            batch_size=batch,
            patch_shape=patch,
            label_transform2=AffinityTransform(OFFSETS, add_binary_target=True, add_mask=True),
            raw_transform=get_raw_transform(normalise),
            is_seg_dataset=False,
            ndim=2,
            shuffle=True,
        )

    def model():
        torch.manual_seed(run.seed)
        np.random.seed(run.seed)
        return UNet2d(1, len(OFFSETS) + 1, final_activation="Sigmoid")

    loss = LossWrapper(DiceLoss(), transform=ApplyAndRemoveMask("multiply"))
    with run.timed("preparation"):
        train, validation = loader("train"), loader("validation")

    measured = model()
    optimizer = torch.optim.AdamW(measured.parameters(), lr=RATE)
    batches = iter(())

    def step():
        nonlocal batches
        if (pair := next(batches, None)) is None:
            batches = iter(train)
            pair = next(batches)
        optimizer.zero_grad()
        loss(measured(pair[0]), pair[1]).backward()
        optimizer.step()

    iterations = run.iterations(step)
    trainer = torch_em.default_segmentation_trainer(
        name="model",
        model=model(),
        train_loader=train,
        val_loader=validation,
        loss=loss,
        metric=loss,
        learning_rate=RATE,
        device="cpu",
        logger=None,
        compile_model=False,  # takes minutes, for each shape of a batch, for training and validation again
        save_root=str(run.out / "model"),
    )
    validate = trainer._validate

    def timed_validation():
        with run.timed("validation"):
            return validate()

    trainer._validate = timed_validation
    with run.timed("training"):
        trainer.fit(iterations=iterations)
    run.seconds["training"] -= run.seconds["validation"]
    trainer.load_checkpoint("best")
    trained = trainer.model.eval()

    def predict(image):
        block, halo = ((512, 512), (0, 0)) if run.kind == "membranes" else ((256, 256), (32, 32))
        found = predict_with_halo(
            image, trained, ["cpu"], block, halo, preprocess=normalise, disable_tqdm=True
        )
        return {"labels": mutex_watershed_segmentation(found[0], found[1:].copy(), OFFSETS)}

    run.predict(predict)
    run.finish(
        iterations=iterations,
        parameters=sum(p.numel() for p in trained.parameters()),
        settings={
            "network": "UNet2d, depth 4, 32 features",
            "target": f"foreground and affinities to {OFFSETS}",
            "patch": list(patch),
            "batch": batch,
            "loss": "DiceLoss",
            "optimizer": "AdamW",
            "learning_rate": f"{RATE}, halved on plateaus",
            "augmentation": "flips",
            "precision": "float32",
            "state": "best validation loss",
            "instances": "own mutex watershed, foreground above 0.5, at least 50 px",
        },
        packages=("torch-em", "python-elf", "bioimage-cpp", "torch", "numpy"),
    )


if __name__ == "__main__":
    main()
