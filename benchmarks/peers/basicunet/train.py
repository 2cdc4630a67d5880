"""Train MONAI's BasicUNet, a network without a training program of its own.

Network, loss, patches and inference are those of MONAI's example with this network
(tutorials/3d_segmentation/challenge_baseline), in 2D; the optimizer is that of its 2D examples.
"""

import monai
import numpy as np
import torch
from contract import Run
from monai import transforms

PATCH, BATCH, CROPS, RATE = 192, 2, 3, 1e-3
KEYS = ("image", "cells")


def network():
    return monai.networks.nets.BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features=(32, 32, 64, 128, 256, 32), dropout=0.1
    )


def augmentation():
    return transforms.Compose(
        [
            transforms.SpatialPadd(KEYS, (PATCH, PATCH), mode="reflect"),
            transforms.RandAffined(
                KEYS, prob=0.15, rotate_range=0.05, scale_range=0.1, mode=("bilinear", "nearest")
            ),
            transforms.RandCropByPosNegLabeld(
                KEYS, label_key="cells", spatial_size=(PATCH, PATCH), num_samples=CROPS
            ),
            transforms.RandGaussianNoised("image", prob=0.15, std=0.01),
            transforms.RandFlipd(KEYS, spatial_axis=0, prob=0.5),
            transforms.RandFlipd(KEYS, spatial_axis=1, prob=0.5),
        ]
    )


def scaled(image):
    return transforms.ScaleIntensity()(torch.from_numpy(image.astype(np.float32))[None]).as_tensor()


class Training:
    """Network, optimizer and patches; a step trains on one batch."""

    def __init__(self, items):
        self.network = network().train()
        self.optimizer = torch.optim.Adam(self.network.parameters(), RATE)
        self.loss = monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)
        dataset = monai.data.Dataset(items, augmentation())
        self.loader = monai.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
        self.batches = iter(self.loader)

    def step(self):
        try:
            batch = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.optimizer.zero_grad()
        loss = self.loss(self.network(batch["image"].as_tensor()), batch["cells"].as_tensor())
        loss.backward()
        self.optimizer.step()


def main():
    run = Run()
    torch.set_num_threads(run.threads)
    with run.timed("preparation"):
        items = [
            {"image": scaled(image), "cells": torch.from_numpy(cells)[None]}
            for image, cells in zip(run.read("train"), run.read("train", "cells"), strict=True)
        ]
    monai.utils.set_determinism(run.seed)
    iterations = run.iterations(Training(items).step)
    monai.utils.set_determinism(run.seed)
    training = Training(items)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(training.optimizer, iterations)
    with run.timed("training"):
        for _ in range(iterations):
            training.step()
            schedule.step()
    trained = training.network.eval()
    inferer = monai.inferers.SlidingWindowInferer(
        (PATCH, PATCH), sw_batch_size=2, overlap=0.5, mode="gaussian", padding_mode="replicate"
    )

    @torch.no_grad()
    def predict(image):
        found = scaled(image)[None]
        flips = ((), (2,), (3,), (2, 3))
        logits = [torch.flip(inferer(torch.flip(found, axes), trained), axes) for axes in flips]
        return {"probability": torch.stack(logits).mean(0).softmax(1)[0, 1].numpy()}

    run.predict(predict)
    run.finish(
        iterations=iterations,
        parameters=sum(p.numel() for p in trained.parameters()),
        settings={
            "network": "BasicUNet, features 32 32 64 128 256 32, drop-out 0.1",
            "target": "cells without separation border",
            "patch": [PATCH, PATCH],
            "batch": BATCH * CROPS,
            "loss": "DiceCELoss",
            "optimizer": "Adam",
            "learning_rate": f"{RATE}, cosine to 0",
            "augmentation": "affine, noise, flips",
            "precision": "float32",
            "prediction": "sliding window, overlap 0.5, mean of 4 flips",
            "instances": "components of the probability above a threshold chosen on the validation split",
        },
        packages=("monai", "torch", "numpy"),
    )


if __name__ == "__main__":
    main()
