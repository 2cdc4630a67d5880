# What the rules share: settings and volumes, checked before anything runs. No rules here.
import math
import os
import re
import shutil
import socket
import sys
import time
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

# Not `workflow.basedir`, which is the folder of the workflow that imports this one.
REPOSITORY = Path(workflow.current_basedir).parents[1]
# The library of this checkout serves the checks below and, through the environment, the jobs; nothing is to be installed.
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "workflow")]
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(REPOSITORY), os.getenv("PYTHONPATH")])))

from bordure import internals
from pipeline_lib import imageio, memory, networks, provenance
from pipeline_lib.data import volumes
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime import locks
from pipeline_lib.tasks.segmentation import baselines
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained
from pipeline_lib.runtime.log import WORKFLOW
from bordure.settings import complete, read_config

IMPORTED = internals.is_imported(workflow)
START = time.time()
# Jobs on this machine end when their Snakemake is killed.
os.environ[WORKFLOW] = f"{socket.gethostname()}:{os.getpid()}"


def read_volumes():
    """By name the rows of the table of volumes, the shapes (z, y, x) of their images, and further files of these.

    Their files are looked into unless they are still to be drawn.
    """
    beside_configs = [Path(path).parent for path in workflow.configfiles]
    found = (folder / config["volumes"] for folder in (Path(), *beside_configs, REPOSITORY))
    table = next(filter(Path.exists, found), config["volumes"])
    if "drawing" in config and "data_dir" in config:
        raise InputError("config keys `drawing` and `data_dir`: take one; a drawn volume has its own folder.")
    drawn = f"{config['results']}/drawn" if "drawing" in config else None
    rows = volumes.read_table(table, drawn or config.get("data_dir", "."))
    if drawn:
        others = {row.volume: () for row in rows}
        sections, size = config["drawing"]["sections"], config["drawing"]["size"]
        chosen = {row.volume: imageio.parse_sections(row.sections, sections) for row in rows}
        shapes = {name: (len(numbers), size, size) for name, numbers in chosen.items()}
    else:
        found = volumes.check_files(rows, config["dataset"]["channels"], config["memory_gb"])
        shapes = {name: images.shape[1:] for name, images in found.items()}
        others = {name: images.others for name, images in found.items()}
    return {row.volume: row for row in rows}, shapes, others


def check_results():
    """The results folder, or the folder it will be made in, must take files, and so must those in it."""
    results = Path(config["results"]).absolute()
    folder = next(path for path in (results, *results.parents) if path.exists())
    inside = [results / name for name in ("logs", "benchmarks") if (results / name).exists()]
    for folder in (folder, *inside, *(record.parent for record in results.rglob(provenance.FOLDER))):
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(
                f"config key `results`: {folder} is no folder that can be written to. Make it one, or choose "
                "another."
            )


def check_tiles():
    """Tile sizes are checked here, not hours later in the queue."""
    for section in ("training", "prediction"):
        if (tile := config[section]["tile"]) != "auto":
            PLAN.require_tile(tile, f"{section}.tile")


def check_seeds():
    """A training more is one with another seed."""
    if config["seed"] in config["seeds"]:
        raise InputError(
            f"config key `seeds`: has {config['seed']}, the `seed` of the model itself, which counts among them "
            "already. Leave it out."
        )


def check_outputs():
    """No output may take the place of an input: images within the results folder, under a name of its files."""
    results = os.path.realpath(config["results"])
    inputs = {path for row in VOLUMES.values() for path in (row.images, row.annotation) if path}
    for path in sorted(inputs) if "drawing" not in config else ():
        inside = os.path.relpath(os.path.realpath(imageio.source_file(path)), results)
        target = os.path.join(config["results"], inside)
        for output in (output for made in internals.own_rules(workflow) for output in made.output):
            if output.match(target) or str(output).startswith(f"{target}/"):
                raise InputError(
                    f"{path}: the run writes {output} and would overwrite it. Choose another folder with "
                    "`results:`, or move these images elsewhere."
                )


if internals.changes_paths(workflow):
    sys.exit(
        "error: module: found `prefix` or `replace_prefix`. Choose the folder by the config key `results`."
    )

try:
    for path in [] if IMPORTED else workflow.configfiles:
        read_config(path)  # refuses what Snakemake takes without a word
    config.update(complete(config))
    for key in ("results", "data_dir"):
        if key in config:
            config[key] = os.path.normpath(os.path.expanduser(config[key]))
    check_results()
    VOLUMES, SHAPES, OTHERS = read_volumes()
    PLAN = networks.plan(**config["network"], input_channels=config["dataset"]["channels"])
    check_tiles()
    check_seeds()
except InputError as error:
    sys.exit(f"error: {error}")  # the message alone; an exception would be printed with its traceback


def claim_results():
    """No other run is at work in the results folder, and none will be while this process lives.

    False where the file system knows no locks, so that nobody can tell.
    """
    try:
        return locks.hold_results(config["results"])
    except (InputError, OSError) as error:
        sys.exit(f"error: {explained(error, Path(config['results'], '.lock'))}")


def memory_needs():
    """What the jobs that may need much will take of memory."""
    training, channels = config["training"], config["dataset"]["channels"]
    seen = TRAIN + VALIDATION  # by the training
    yield memory.blockwise(config["block"])
    yield PLAN.prediction_memory()
    yield PLAN.training_memory(
        training["tile"],
        precision=training["precision"],
        on_gpu=training["device"] == "cuda",
        batch=training["batch"],
        volumes=len(seen),
        pixels=sum(math.prod(SHAPES[name]) for name in seen),
    )
    yield from (memory.validation(name, SHAPES[name][1:]) for name in VALIDATION)
    yield from (memory.scoring(name, SHAPES[name][1:]) for name in EVALUATED)
    if config["normalisation"] == "mean_image":
        yield from (memory.mean_image(name, SHAPES[name][1:], channels) for name in TRAIN)


def jobs_of(volume):
    """How many jobs share a volume: no more than it has blocks."""
    return min(config["jobs_per_volume"], math.ceil(math.prod(SHAPES[volume]) / blocks.BLOCK**2))


def parts_of(volume):
    """What each of them takes."""
    return blocks.parts(SHAPES[volume], jobs_of(volume))


TRAIN, VALIDATION, TEST, PREDICT = (
    [name for name, volume in VOLUMES.items() if volume.split == split] for split in volumes.SPLITS
)
# The models: trained ones, which are the wildcard {model}, with their seeds, and baselines. The first is the one whose
# segmentation and pictures are results; the further ones are scored and no more.
MODEL = config["network"]["name"]
TRAINED = {MODEL: config["seed"]} | {f"{MODEL}-seed{seed}": seed for seed in config["seeds"]}
FURTHER = [model for model in TRAINED if model != MODEL]
BASELINES = [*baselines.BASELINES]
SEGMENTED = VALIDATION + TEST + PREDICT
EVALUATED = VALIDATION + TEST
# Some of each split, in turn: a table of hundreds of images has a report that can be read all the same.
TURNS = [name for turn in zip_longest(TEST, VALIDATION, PREDICT, TRAIN) for name in turn if name]
SHOWN = TURNS[: config["report"]["volumes"]]
SHOWN_ERRORS = [name for name in SHOWN if name in EVALUATED]
SHOWN_TRAIN, SHOWN_TEST = ([name for name in SHOWN if name in split] for split in (TRAIN, TEST))
SHOWN_WEIGHED = [name for name in SHOWN if name not in PREDICT]
SCATTERED = [name for name in SHOWN_TRAIN + SEGMENTED if len(parts_of(name)) > 1]


def growing(first, most=math.inf):
    """A resource that grows with each attempt at a job, for a cluster where the first asked for too little."""
    return lambda wildcards, attempt: min(first * attempt, most)


MEMORY_MB = growing(round(1000 * config["memory_gb"]))


try:
    LARGEST = memory.require(memory_needs(), config["memory_gb"])
except InputError as error:
    sys.exit(f"error: {error}")
if workflow.is_main_process:
    print(
        f"memory of a job: {LARGEST.bytes / 1e9:.1f} GB at least ({LARGEST.job}), and up to `memory_gb` "
        f"({config['memory_gb']:g} GB) where more makes it faster",
        file=sys.stderr,
    )


class Batch(NamedTuple):
    """Volumes that one job takes together."""

    rule_name: str
    group: str  # what the volumes are
    name: str  # the group, numbered where it has several batches
    volumes: list[str]


def batches_of(stage, **groups):
    """The batches of the volumes in `groups`, none of which holds volumes of two groups.

    A job that runs again makes all its outputs anew, and whatever is made of them: new images to predict must not make
    a new model.
    """
    for group, names in groups.items():
        batches = volumes.batches({name: math.prod(SHAPES[name]) for name in names})
        for number, batch in batches.items():
            name = f"{group}_{number}" if len(batches) > 1 else group
            yield Batch(f"{stage}_{name}", group, name, batch)


def one_of(names):
    """A constraint that a wildcard has one of these values."""
    return "|".join(map(re.escape, names))


def paths(pattern, **wildcards):
    """The files that `pattern` stands for, as `expand` gives them, for the parameters of a rule."""
    return [Path(path) for path in expand(pattern.replace("<results>", config["results"]), **wildcards)]


def each(names=None, models=None, **arguments):
    """A parameter: the arguments of a stage for each of the volumes `names` or {volume}, and of `models` or {model}.

    An argument is a file of the results (`<results>/...`) or a text, both with {volume} and {model}, for all volumes or
    by volume.
    """

    def filled(value, **wildcards):
        if value is None:
            return None
        text = value.format(**wildcards)
        return Path(text.replace("<results>", config["results"])) if text.startswith("<results>/") else text

    def values(name, model):
        own = {key: value[name] if isinstance(value, dict) else value for key, value in arguments.items()}
        return {key: filled(value, volume=name, model=model) for key, value in own.items()}

    return lambda wildcards: [
        values(name, model)
        for model in ([wildcards.get("model")] if models is None else models)
        for name in ([wildcards.volume] if names is None else names)
    ]


def choices(models=None):
    """A parameter: what the post-processing of each of `models`, or of {model}, is chosen on."""
    return lambda wildcards: [
        {
            "datasets": paths("<results>/dataset/{volume}.h5", volume=VALIDATION),
            "predictions": paths("<results>/prediction/{model}/{volume}.h5", model=model, volume=VALIDATION),
            "output": Path(config["results"], "postprocessing", f"{model}.json"),
        }
        for model in ([wildcards.model] if models is None else models)
    ]


def segmentations(names, models=None):
    """A parameter: what is segmented of each of the volumes `names`, for each of `models` or for {model}."""
    return each(
        names,
        models,
        prediction="<results>/prediction/{model}/{volume}.h5",
        postprocessing="<results>/postprocessing/{model}.json",
        segmentation="<results>/segmentation/{model}/{volume}.h5",
    )


def tiffs(names=None):
    """A parameter: what becomes TIFF of each of the volumes `names`, or of {volume}."""
    return each(
        names,
        [MODEL],
        segmentation="<results>/segmentation/{model}/{volume}.h5",
        prediction="<results>/prediction/{model}/{volume}.h5",
        labels="<results>/segmentation/{volume}_labels.tif",
        cell_probability="<results>/segmentation/{volume}_cell_probability.tif",
    )


def evaluations(names, models=None):
    """A parameter: what is scored of each of the volumes `names`, for each of `models` or for {model}."""
    return each(
        names,
        models,
        dataset="<results>/dataset/{volume}.h5",
        prediction="<results>/prediction/{model}/{volume}.h5",
        segmentation="<results>/segmentation/{model}/{volume}.h5",
        postprocessing="<results>/postprocessing/{model}.json",
        output="<results>/scores/{model}/{volume}.csv",
        volume="{volume}",
        split={name: VOLUMES[name].split for name in names},
        network="{model}",
    )


def whole(names):
    """Those of the volumes `names` that no jobs share."""
    return [name for name in names if name not in SCATTERED]


def source_files(name):
    """The input files of a volume: images and, where there is one, annotation."""
    volume = VOLUMES[name]
    paths = [imageio.source_file(path) for path in (volume.images, volume.annotation) if path]
    return [file for path in [*paths, *OTHERS[name]] for file in files_of(path)]


def files_of(path):
    """A file, or the slices in a folder: edited slices do not touch the folder's own time stamp."""
    return list(map(str, imageio.slice_files(path))) if path.is_dir() else [str(path)]


def part_files(pattern):
    """The files of all parts of a volume, in their order, as an input function."""
    return lambda wildcards: [
        pattern.format(**wildcards, part=number) for number, _ in enumerate(parts_of(wildcards.volume), 1)
    ]


def pictures(kind, names, figure):
    """The pictures of the volumes `names`, each with its place in Snakemake's own report."""
    of_volume = partial(report, caption=f"../report/{kind}.rst", category="Volumes")
    return [
        of_volume(f"<results>/figures/{kind}/{name}.png", labels={"volume": name, "figure": figure})
        for name in names
    ]


def gpu_slots(section):
    """Whether a job asks for a GPU; one that may find none on a machine without asks all the same."""
    return 0 if config[section]["device"] == "cpu" else 1


def clear_states():
    """What trainings could have been resumed from: of use only until all is done, and not some targets alone."""
    if not any(f"{config['results']}/report.html" in job.output for job in workflow.dag.jobs):
        return
    for state in Path(config["results"], "models").glob("*/model.checkpoint.pt"):
        if state.with_name("model.pt").exists():
            state.unlink()


def results_message():
    """Where the results are, for the end of a run that may have been asked for some of them only."""
    paths = {
        "report": "report.html",
        "scores": "scores.csv",
        "segmentation": "segmentation",
        "model": f"models/{MODEL}/model.pt",
    }
    results = {name: Path(config["results"], path) for name, path in paths.items()}
    return "".join(f"{name:<13} {path}\n" for name, path in results.items() if path.exists())


def with_row(error):
    """An error of a volume, with the row of the table that says where its files are, as in the dry run."""
    name = re.match("volume ([A-Za-z0-9_.-]+): ", error)
    return f"{VOLUMES[name[1]].row}, {error}" if name and name[1] in VOLUMES else error


def error_message():
    """The last error of each log written by this run, so that the reason is the last thing to be read."""
    logs = [path for path in Path(config["results"], "logs").rglob("*.log") if path.stat().st_mtime >= START]
    told = {path: path.read_text(errors="replace") for path in logs}
    errors = {path: with_row(text.partition("error: ")[2].strip()) for path, text in told.items()}
    errors |= {
        path: "the job ended without a word: it was killed, mostly for lack of memory (lower `memory_gb`, so that jobs "
        "take less, or run fewer at a time with `--cores`), or the disk is full. Then run the same command again."
        for path, text in told.items()
        if text and not re.search("error: |Traceback|done in", text)  # empty: it never began
    }
    if shutil.disk_usage(config["results"]).free < 10**6:
        errors[Path(config["results"])] = "the disk is full. Free space there and run the same command again."
    return (
        "\n".join(f"error: {text}\n({path})" for path, text in errors.items() if text)
        or "error: not all was done. Where nothing above says why, the run was ended from outside: the same command goes on."
    )
