"""The comparison of a study: which differences are beyond chance, and the page that shows them."""

import shutil
from itertools import product

import numpy as np
import pandas as pd

from pipeline_lib import layout, networks, provenance
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.files import write_json
from pipeline_lib.scores import COLUMNS, SECTION_COLUMNS
from pipeline_lib.stages.comparison import Contents, Shown, Trained

SECTIONS = 8
METRICS = ("rand_error", "v_rand_thin", "seg", "vi_split")


def make_study(folder, variants, seeds=(0, 1, 2), noise=0.004, size=64):
    """Write the files of a study whose variants are better by the given number, and return its contents.

    Scores depend on the section, on the variant and on chance in the training.
    """
    rng = np.random.default_rng(0)
    arguments = {"depth": 1, "base_channels": 2, "input_channels": 1}
    plan = networks.plan("unet", **arguments)
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    Model(plan, plan.build(), normalisation, {}).save(folder / "untrained.pt")
    hard = {split: rng.uniform(0, 0.1, SECTIONS) for split in ("validation", "test")}
    models, speed, segmentations = [], {}, {}
    labels = np.zeros((SECTIONS, size, size), np.uint32)
    for n, (y, x) in enumerate(product(range(4), repeat=2), 1):
        side = size // 4
        labels[:, y * side + 2 : (y + 1) * side - 1, x * side + 2 : (x + 1) * side - 1] = n
    with layout.create(folder / "dataset.h5", {}) as file:
        raw = np.where(labels > 0, 160, 60) + rng.normal(0, 20, labels.shape)
        layout.add(file, layout.RAW, (1, *labels.shape), "uint8")[:] = raw.clip(0, 255).astype(np.uint8)
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
    for number, (variant, better) in enumerate(variants.items()):
        path = folder / f"segmentation-{variant}.h5"
        with layout.create(path, {}) as file:
            layout.add(file, layout.LABELS, labels.shape)[:] = np.roll(labels, number, axis=1)
        segmentations[variant] = path
        speed[variant] = folder / f"speed-{variant}.json"
        write_json(
            speed[variant],
            {
                "parameters": 1000 * 2**number,
                "multiply_adds": 30_000 * (number + 1),
                "seconds_per_iteration": 0.2,
                "seconds_per_megapixel": 2.0 + number,
            },
        )
        for seed in seeds:
            name = f"{variant}-seed{seed}"
            own = folder / name
            own.mkdir()
            luck = better + rng.normal(0, noise)
            write_json(own / "chosen.json", {"threshold": 0.35, "criterion": "rand_error"})
            with provenance.making("train", [own / "model.pt"], []) as record:
                shutil.copy(folder / "untrained.pt", own / "model.pt")
                record["seconds"] = 60.0 * (number + 1) + seed
            steps = np.arange(1, 11)
            pd.DataFrame(
                {
                    "iteration": 100 * steps,
                    "validation_loss": 0.1 + (1 - better) / steps + rng.uniform(0, 0.02, 10),
                    "validation_v_rand_thin": 0.9 + luck - 0.4 / steps,
                }
            ).to_csv(own / "history.csv", index=False)
            rows, at_sections = [], []
            for split, metric in product(hard, METRICS):
                sign = 1 if metric in ("v_rand_thin", "seg") else -1
                values = 0.5 + sign * (0.3 + luck - hard[split] + rng.normal(0, 0.002, SECTIONS))
                rows += [(split, metric, t, v) for t, v in ((0.3, 0.0), (0.35, values.mean()), (0.5, 0.0))]
                at_sections += [(split, metric, 0.35, v, z) for z, v in enumerate(values)]
            for file, found, columns in (
                ("scores.csv", rows, COLUMNS),
                ("sections.csv", at_sections, SECTION_COLUMNS),
            ):
                table = pd.DataFrame(
                    found, columns=["split", "metric", "threshold", "value", "section"][: len(found[0])]
                )
                table = table.assign(volume=table.split, network=name, variant=variant, seed=seed, fold=0)
                table[columns].to_csv(own / file, index=False)
            files = (own / name for name in ("model.pt", "history.csv", "chosen.json"))
            models.append(
                Trained(name, variant, seed, 0, *files, [own / "scores.csv"], [own / "sections.csv"])
            )
    return Contents(
        title="A <study>",
        variants={variant: {"network": {"name": variant}} if n else {} for n, variant in enumerate(variants)},
        models=models,
        speed=speed,
        pictures=[Shown("cells", "test", z, folder / "dataset.h5", segmentations) for z in (0, 3)],
    )
