"""Malformed configs."""

from __future__ import annotations

import os
from pathlib import Path

from .harness import Group
from .sound import CONFIG, write_config

GROUP = Group("Configs")
add = GROUP.add


add("missing file", lambda: Path("my.yaml").unlink())
add("folder instead of a file", lambda: (Path("my.yaml").unlink(), Path("my.yaml").mkdir()))
add("empty file", write_config, "", "")
add("file larger than any config", lambda: os.truncate("my.yaml", 2**30))
add("binary file", lambda: Path("my.yaml").write_bytes(b"\x89PNG\xff\xfe\0"))
add("list at the top level", write_config, "- volumes\n- data_dir\n", "")
add("single word at the top level", write_config, "volumes", "")
add("indentation by a tab", write_config, "prediction:\n\ttile: auto\n")
add("unmatched bracket", write_config, "report: {title: [a}\n")
add("duplicate key", write_config, "seed: 1\nseed: 2\n")
add("duplicate key in a section", write_config, "report: {title: a, title: b}\n")
add("duplicate key in JSON", write_config, '{"volumes": "volumes.tsv", "seed": 1, "seed": 2}', "")
add("Python object", write_config, 'report: !!python/object/apply:os.system ["touch harmed"]\n')
add("Python expressions (YTE)", write_config, "__use_yte__: true\n")
add("nesting 3,000 levels deep", write_config, f"report: {'[' * 3000}{']' * 3000}\n")
add("alias that contains itself", write_config, "report: &a {title: *a}\n")
add(
    "aliases that expand to 10,000,000,000 values",
    write_config,
    "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)),
)
add("unknown key", write_config, "trainning: {}\n")
add("unknown key in a section", write_config, "weight_map: {sigm: 3}\n")
add("list as a key", write_config, "? [a, b]\n: c\n")
add("no table of volumes", write_config, "seed: 1\n", "")
add("number instead of the path of the table", write_config, "volumes: 5\n", "")
add("text instead of a number", write_config, "seed: many\n")
add("fraction instead of an integer", write_config, "block: 128.5\n")
add("number out of range", write_config, "seed: -1\n")
add("ensemble of one training", write_config, "ensemble: true\n")
add("NaN", write_config, "weight_map: {sigma: .nan}\n")
add("infinity", write_config, "weight_map: {w0: .inf}\n")
add("integer of 5,000 digits", write_config, f"seed: {'9' * 5000}\n")
add("separation border wider than allowed", write_config, "dataset: {separation_border_width: 1000000}\n")
add("length in um without a pixel size", write_config, "weight_map: {sigma: 1 um}\n")
add("area instead of a length", write_config, "weight_map: {sigma: 1 um2}\n")
add("unit that is no length", write_config, "segmentation: {minimum_size: 20 px}\n")
add(
    "length in um with oblong pixels",
    write_config,
    "dataset: {pixel_size: [0.5, 0.4]}\nweight_map: {sigma: 1 um}\n",
)
add(
    "length in um that is too many px",
    write_config,
    "dataset: {pixel_size: 0.001}\nweight_map: {sigma: 1 um}\n",
)
add("pixel size of 0", write_config, "dataset: {pixel_size: 0}\n")
add("pixel sizes to match, but not known", write_config, "prediction: {match_pixel_size: true}\n")
add("list instead of a section", write_config, "report: [a]\n")
add("unknown choice", write_config, "normalisation: median\n")
add("tile that the network cannot process", write_config, "", CONFIG.replace("tile: 44", "tile: 45"))
add(
    "tiles for batch normalisation that the network does not have",
    write_config,
    "",
    CONFIG.replace("tile: 44", "tile: 44, batch_normalisation_tiles: 20"),
)
add(
    "supervision of levels that the network does not have",
    write_config,
    "",
    CONFIG.replace("tile: 44", "tile: 44, deep_supervision: true"),
)
for name, more in {
    "start from a file that does not exist": "start_from: none.pt",
    "start from the model of the run itself": "start_from: unet",
    "start from a table": "start_from: volumes.tsv",
    "normalisation of no model is to be kept": "keep_normalisation: true",
    "unknown part of the network to freeze": "freeze: [down.2]",
    "all parts of the network frozen": "freeze: [down, up, merge, score]",
    "learning rate of a part times 0": "learning_rate_factors: {down: 0}",
    "learning rate of a part that is frozen": "freeze: [down], learning_rate_factors: {down.0: 0.1}",
}.items():
    add(name, write_config, "", CONFIG.replace("tile: 44", f"tile: 44, {more}"))
MUTEX = "segmentation: {method: mutex_watershed}\n"
for name, training, more in (
    ("mutex watershed without affinities", "", MUTEX),
    ("offsets without those to the neighbours", ", affinities: [[-9, 0], [0, -9], [-1, 0]]", MUTEX),
    ("two opposite offsets", ", affinities: [[-1, 0], [0, -1], [5, 0], [-5, 0]]", MUTEX),
    ("offset of three numbers", ", affinities: [[-1, 0], [0, -1], [0, -9, 0]]", MUTEX),
    (
        "affinities to resample",
        ", affinities: true",
        "dataset: {pixel_size: 1}\nprediction: {match_pixel_size: true}\n",
    ),
):
    add(name, write_config, more, CONFIG.replace("tile: 44", f"tile: 44{training}"))
add(
    "affinities of a detector",
    write_config,
    "",
    CONFIG.replace("depth: 1, base_channels: 2", "name: ssd").replace(
        "tile: 44", "tile: 172, affinities: true"
    ),
)
for number, name in {
    1: "neighbouring sections of a single one",
    11: "more neighbours than are possible",
}.items():
    add(name, write_config, "", CONFIG.replace("depth: 1", f"depth: 1, context_sections: {number}"))
add("shift of neighbours that the network does not see", write_config, "augmentation: {section_jitter: 2}\n")
add("missing table of volumes", write_config, "", CONFIG.replace("volumes.tsv", "none.tsv"))
add("missing model", write_config, "model: none.pt\n")
add("table instead of a model", write_config, "model: volumes.tsv\n")
add("NUL in a path", write_config, 'results: "a\\0b"\n')
add("braces in the results folder", write_config, 'results: "{volume}"\n')
