# Settings and volumes, checked before anything runs, and functions that several rules use. This file has no
# rules.
import atexit
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import socket
import sys
import time
from contextlib import ExitStack, suppress
from itertools import product, zip_longest
from pathlib import Path
from typing import NamedTuple


def find_workflow(rules):
    """Return the folder of this workflow; of the installed package if Snakemake fetches the rules from a server.

    `rules` is the folder of this file, a path or a place on a server.
    """
    if isinstance(rules, (str, os.PathLike)):
        return Path(rules).parent
    source = rules.get_path_or_uri(secret_free=True)
    install = "Install the library of the same release"
    if hasattr(rules, "repo"):
        install = f"Type `pip install 'git+https://{rules.host}/{rules.repo}@{rules.ref}'`"
    try:
        import pipeline_lib
    except ImportError:
        sys.exit(f"error: {source}: the library of this workflow is not installed. {install}.")
    library = Path(pipeline_lib.__file__).parent
    folder = next(filter(Path.is_dir, (library / "workflow", library.parent / "workflow")))
    own = {
        f"../{path.relative_to(folder)}": path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".smk", ".py")
    }
    for name, path in {**own, "../Snakefile": folder / "Snakefile", VERSION: library / "__init__.py"}.items():
        with workflow.sourcecache.open(rules.join(name)) as fetched:
            if fetched.read().rstrip() != path.read_text().rstrip():
                sys.exit(
                    f"error: {source}: {name.removeprefix('../')} differs from that of the installed library "
                    f"{pipeline_lib.__version__}. {install}."
                )
    return folder


VERSION = "../../pipeline_lib/__init__.py"  # seen from this folder
# Not `workflow.basedir`, which is the folder of the importing workflow if there is one.
WORKFLOW_FOLDER = find_workflow(workflow.current_basedir)
REPOSITORY = WORKFLOW_FOLDER.parent
# The checks below and the jobs (through the environment) use the library of this checkout, which need not be
# installed. An installed package contains the workflow as pipeline_lib/workflow.
LIBRARY = next(folder for folder in WORKFLOW_FOLDER.parents if (folder / "pipeline_lib").is_dir())
sys.path[:0] = [str(LIBRARY), str(WORKFLOW_FOLDER)]
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(LIBRARY), os.getenv("PYTHONPATH")])))

from bordure import estimate, internals, replacement, starts, study
from pipeline_lib import imageio, memory, provenance
from pipeline_lib.data import folds, volumes
from pipeline_lib.imageio import boxes
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.pixelsize import pair
from pipeline_lib.networks import modelfile
from pipeline_lib.projects.proposal import ORIENTATIONS
from pipeline_lib.scores import scores_before
from pipeline_lib.runtime import live, locks
from pipeline_lib.tasks.segmentation import baselines
from pipeline_lib.tasks.segmentation.classes import Classes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained, read_json, sha256, write_json
from pipeline_lib.runtime.log import WORKFLOW
from bordure.lengths import convert
from bordure.settings import OF_TRAINING, of_volume, read_config, require_labels, use_model

IMPORTED = internals.is_imported(workflow)
STATED = "BORDURE_SETTINGS"  # environment variable for jobs: hash of settings and table
START = time.time()
# Live lines of the jobs while they run. `onsuccess` and `onerror` do not run after Ctrl-C.
LIVE = ExitStack()
atexit.register(LIVE.close)
# Jobs on this machine watch this process and end when it is killed.
os.environ[WORKFLOW] = f"{socket.gethostname()}:{os.getpid()}"


def find_beside(path):
    """Return a path of the config: as it is, or else beside a config file or in the repository."""
    path = os.path.expanduser(path)
    folders = (Path(), *(Path(config).parent for config in workflow.configfiles), REPOSITORY)
    return next(filter(Path.exists, (folder / path for folder in folders)), path)


def read_volumes():
    """Return dicts by volume: its row of the table, shape (z, y, x), further files of its images, pixel size.

    The headers of all image files and all boxes are checked, unless the images are drawn by the run.
    """
    table = find_beside(config["volumes"])
    if "drawing" in config and "data_dir" in config:
        raise InputError(
            "config keys `drawing` and `data_dir`: both are set, expected one. Remove `data_dir` to draw "
            "images, or `drawing` to use your own."
        )
    drawn = f"{config['results']}/drawn" if "drawing" in config else None
    needed = [] if MODEL_FILE else ["train"] if "folds" in config else ["train", "validation"]
    rows = volumes.read_table(table, drawn or config.get("data_dir", "."), needed)
    if drawn:
        others = {row.volume: () for row in rows}
        sections, size = config["drawing"]["sections"], config["drawing"]["size"]
        chosen = {row.volume: imageio.parse_sections(row.sections, sections) for row in rows}
        rows_of = {row.volume: imageio.row_range(row.rows, size) or range(size) for row in rows}
        shapes = {name: (len(numbers), len(rows_of[name]), size) for name, numbers in chosen.items()}
        pixel_sizes = {}
    else:
        dataset = config["dataset"]
        of_rows = {row.volume: of_volume(dataset, row.dataset, row.row) for row in rows}
        found = volumes.check_files(
            rows,
            {name: own["channels"] for name, own in of_rows.items()},
            config["memory_gb"],
            dataset["pairing"],
            dataset.get("scale", dataset.get("offset")),
            of_rows,
        )
        for variant, own in SETTINGS.items():
            with study.of_variant(variant, config):
                require_labels(own, rows)
        shapes = {name: images.shape[1:] for name, images in found.items()}
        others = {name: images.others for name, images in found.items()}
        pixel_sizes = {name: images.pixel_size for name, images in found.items()}
    return {row.volume: row for row in rows}, shapes, others, pixel_sizes


def check_results():
    """Raise `InputError` unless the results folder (or the one it will be created in) can be written to.

    The same holds for the folders in it.
    """
    results = Path(config["results"]).absolute()
    folder = next(path for path in (results, *results.parents) if path.exists())
    inside = [results / name for name in ("logs", "benchmarks") if (results / name).exists()]
    for folder in (folder, *inside, *(record.parent for record in results.rglob(provenance.FOLDER))):
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(
                f"config key `results`: {folder} is not a writable folder. Change its permissions or choose "
                "another folder."
            )


def dataset_of(settings, name):
    """Return the settings of the section `dataset` for one volume."""
    return of_volume(settings["dataset"], VOLUMES[name].dataset, VOLUMES[name].row)


DIVIDED = {}  # volume that was divided into folds -> volume in the table


def divide_volumes():
    """Return the names of the training and validation volumes of each fold, and a description for the user.

    Volumes that lie in two folds are divided.
    """
    splits = [[name for name, row in VOLUMES.items() if row.split == split] for split in folds.ANNOTATED]
    if "folds" not in config or MODEL_FILE:
        return [splits], []
    divided = folds.divide([*VOLUMES.values()], {name: SHAPES[name][0] for name in VOLUMES}, config["folds"])
    whole = {piece.volume.volume: piece.whole for piece in divided.pieces}
    DIVIDED.update(whole)
    replaced = (
        (VOLUMES, {piece.volume.volume: piece.volume for piece in divided.pieces}),
        (SHAPES, {p.volume.volume: (len(p.numbers), *SHAPES[p.whole][1:]) for p in divided.pieces}),
        (OTHERS, {name: OTHERS[whole[name]] for name in whole}),
        (IN_FILES, {name: IN_FILES[whole[name]] for name in whole if whole[name] in IN_FILES}),
    )
    for found, new in replaced:
        found.clear()
        found.update(new)
    every = [name for own in divided.names for name in own]
    return [([name for name in every if name not in own], own) for own in divided.names], divided.described()


def check_tiles():
    """Raise `InputError` if a network cannot process the tiles, now and not after hours in the queue."""
    for name, model in VARIANTS.items():
        with study.of_variant(name, config):
            study.require_task(model.settings, model.plan)
            model.plan.require_prediction(model.settings["prediction"])
            if not MODEL_FILE and workflow.is_main_process:  # not again in each job: this may import torch
                model.plan.require_training(model.settings["training"])
            if (tile := model.settings["prediction"]["tile"]) != "auto":
                model.plan.require_tile(tile, "prediction.tile")
    for model in () if MODEL_FILE else TRAINED.values():
        with study.of_variant(model.variant, config):
            model.plan.require_neighbours(SHAPES[name][0] for name in model.train)


def require_same_settings():
    """End a job on a cluster if config or table were edited since the run started, because it reads them again.

    Snakemake records the results with the settings of the run, so they would have other settings than it says.
    """
    rows = {name: str(row) for name, row in VOLUMES.items()}
    stated = hashlib.sha256(json.dumps([SETTINGS, rows], sort_keys=True, default=str).encode()).hexdigest()
    if workflow.is_main_process:
        os.environ[STATED] = stated
    elif os.getenv(STATED, stated) != stated:
        raise InputError(
            "the config or the table of volumes was edited after this run had started, and jobs on a cluster "
            "read them again. Restore them and run the same command again, or let the new settings count: end "
            "the run, and start it again."
        )


def check_outputs():
    """Raise `InputError` if an output would overwrite an image in the results folder."""
    results = os.path.realpath(config["results"])
    inputs = {path for row in VOLUMES.values() for path in row.paths()}
    for path in sorted(inputs) if "drawing" not in config else ():
        inside = [os.path.relpath(os.path.realpath(file), results) for file in imageio.source_files(path)]
        targets = [os.path.join(config["results"], name) for name in inside if not name.startswith("..")]
        outputs = [output for made in internals.own_rules(workflow) for output in made.output if targets]
        for target, output in product(targets, outputs):
            if output.match(target) or str(output).startswith(f"{target}/"):
                raise InputError(
                    f"{path}: the run would overwrite this file with its output {output}. Choose another "
                    "folder with `results:`, or move these images elsewhere."
                )


if internals.changes_paths(workflow):
    sys.exit(
        "error: module: `prefix` and `replace_prefix` are not supported. Choose the results folder with the "
        "config key `results`."
    )

try:
    for path in [] if IMPORTED else workflow.configfiles:
        read_config(path)  # raises an error for mistakes that Snakemake ignores
    if unused := [key for key in OF_TRAINING if {"model", key} <= {*config}]:
        if workflow.is_main_process:
            print(f"model: {', '.join(unused)} have no effect, because nothing is trained", file=sys.stderr)
    for key in ("study", "folds", "ensemble") if "model" in config else ():
        config.pop(key, None)
    GIVEN = dict(config)
    SETTINGS = study.variants(GIVEN)
    main, *_ = SETTINGS.values()
    MODEL_FILE = use_model(main, find_beside(main["model"]), GIVEN) if "model" in main else None
    DESCRIBED = modelfile.describe(MODEL_FILE) if MODEL_FILE else {}  # the trained model
    REPLACE = main["replace"]
    for own in SETTINGS.values():
        del own["replace"]  # how to run, no setting of the results
        own |= {
            key: os.path.normpath(os.path.expanduser(own[key]))
            for key in ("results", "data_dir")
            if key in own
        }
        if own["results"] == os.curdir:  # Snakemake warns of each path that begins with ./
            own["results"] = os.getcwd()
    config.pop("replace", None)
    config.update(main)
    STUDY = "study" in config
    check_results()
    VOLUMES, SHAPES, OTHERS, IN_FILES = read_volumes()
    FOLDS, NOTES = divide_volumes()
    # lengths in um become px, once for all rules
    for variant, own in SETTINGS.items():
        with study.of_variant(variant, config):
            SETTINGS[variant], lines = convert(
                own,
                [*VOLUMES.values()],
                IN_FILES,
                of_model=pair(DESCRIBED.get("pixel_size")),
                unused=OF_TRAINING if MODEL_FILE else (),
            )
        NOTES += [line for line in lines if line not in NOTES]
    config.update(next(iter(SETTINGS.values())))
    require_same_settings()
    CHANNELS, *others = [dataset_of(config, name)["channels"] for name in VOLUMES]
    # The channels to read if they are the same for all volumes, else their number
    CHANNELS = CHANNELS if all(other == CHANNELS for other in others) else imageio.number_of(CHANNELS)
    TRAINED = study.models(
        SETTINGS,
        FOLDS,
        imageio.number_of(CHANNELS),
        Classes.of_model(MODEL_FILE, DESCRIBED, main["dataset"]) if MODEL_FILE else None,
        "applied" if MODEL_FILE else None,
    )
    ENSEMBLE = study.ensemble(TRAINED) if config.get("ensemble") else None
    MODELS = {ENSEMBLE.name: ENSEMBLE} | TRAINED if ENSEMBLE else TRAINED
    # Main model, whose segmentations and pictures are results. The further models are only scored.
    MODEL, *FURTHER = MODELS
    MAIN = MODELS[MODEL]
    PLAN, CLASSES = MAIN.plan, MAIN.classes
    FIRST = next(iter(TRAINED))  # the main model, or the first member of the ensemble
    VARIANTS, DATASETS, STATISTICS, SPEEDS = (
        study.first_with(TRAINED, kind) for kind in ("variant", "dataset", "statistics", "speed")
    )
    # Models that find boxes, and all others, which find the class of each pixel
    DETECTORS, SEGMENTERS = (
        {name: model for name, model in MODELS.items() if model.detects == detects}
        for detects in (True, False)
    )
    # Those whose results have labels: from the class of each pixel, or from the mask of each box
    MASKED = {name: model for name, model in DETECTORS.items() if model.plan.masks}
    LABELLED = {name: model for name, model in MODELS.items() if name in SEGMENTERS | MASKED}
    WEIGHT_MAPS = study.first_with(SEGMENTERS, "weight_map")
    BOXES = study.first_with(DETECTORS, "boxes")
    check_tiles()
except InputError as error:
    sys.exit(f"error: {error}")  # an exception would be printed with its traceback


def settings_of(name):
    """Return the settings of the training of a model, as its file records them."""
    model = MODELS[name]
    speed = Path(config["results"], "speed", f"{model.speed}.json")
    return {
        "network": model.settings["network"],
        "training": schedule_of(model, *filter(Path.exists, [speed] * TIMED)),
        "augmentation": model.settings["augmentation"],
        "seed": model.seed,
    }


def schedule_of(model, *speed):
    """Return the section `training` of a model, with the iterations in the file of its measured speed.

    Without such a file they are those of the config. A missing file is an error that Snakemake expects while
    it plans a run in which the speed is measured.
    """
    training = starts.training_of(model, TRAINED)
    for path in speed:
        with open(path) as file:
            training = training | json.load(file)["schedule"]
    return training


def schedule():
    """Return a parameter function: the section `training` of a job, with its measured iterations if needed.

    Snakemake does not compare the parameter if it is made from an input, see `unscheduled`.
    """
    if TIMED:
        return lambda wildcards, input: schedule_of(model_of(wildcards), *input.speed)
    return lambda wildcards: schedule_of(model_of(wildcards))


def unscheduled():
    """Return a further parameter for Snakemake to compare: `training` without the measured iterations."""
    if not TIMED:
        return {}
    return {
        "given": lambda wildcards: {
            key: value
            for key, value in schedule_of(model_of(wildcards)).items()
            if key not in ("iterations", "validation_interval")
        }
    }


def claim_results():
    """Lock the results folder until this process ends, or end the run if another run holds the lock.

    Returns False if the file system has no locks; then another run may be using the folder.
    """
    try:
        return locks.hold_results(config["results"])
    except (InputError, OSError) as error:
        sys.exit(f"error: {explained(error, Path(config['results'], '.lock'))}")


def memory_needs():
    """Yield the memory that each kind of job with a large need takes (`memory.Need`)."""
    yield memory.blockwise(config["block"])
    for method, offsets in WHOLE:
        yield from (memory.labelling(name, SHAPES[name][1:], method, offsets) for name in FOUND)
    for model in VARIANTS.values():
        yield model.plan.prediction_memory()
    if MODEL_FILE:
        return
    seen = [*LEARNED]  # volumes that the trainings read
    for model in VARIANTS.values():
        training = model.settings["training"]
        yield model.plan.training_memory(
            training["tile"],
            precision=training["precision"],
            on_gpu=training["device"] == "cuda",
            batch=training["batch"],
            volumes=len(seen),
            pixels=sum(math.prod(SHAPES[name]) for name in seen),
        )
    for offsets in {study.offsets_of(model.settings) for model in VARIANTS.values()}:
        yield from (memory.validation(name, SHAPES[name][1:], offsets) for name in HELD_OUT)
    for method in [("components", ()), *WHOLE]:
        yield from (memory.scoring(name, SHAPES[name][1:], *method) for name in HELD_OUT + TEST)
    if any(model.settings["normalisation"] == "mean_image" for model in VARIANTS.values()):
        channels, learned = imageio.number_of(CHANNELS), {name for train, _ in FOLDS for name in train}
        yield from (memory.mean_image(name, SHAPES[name][1:], channels) for name in sorted(learned))


def jobs_of(volume):
    """Return how many jobs share a volume: at most `jobs_per_volume`, and at most one per block of pixels."""
    return min(config["jobs_per_volume"], math.ceil(math.prod(SHAPES[volume]) / blocks.BLOCK**2))


def parts_of(volume):
    """Return the sections and rows of each job that shares a volume."""
    return blocks.parts(SHAPES[volume], jobs_of(volume))


TRAIN, VALIDATION = MAIN.train, MAIN.validation
TEST, PREDICT = (
    [name for name, row in VOLUMES.items() if row.split == split] for split in volumes.SPLITS[2:]
)
LEARNED = [name for split in folds.ANNOTATED for name, row in VOLUMES.items() if row.split == split]
HELD_OUT = [name for _, validation in FOLDS for name in validation]
# Trainings that differ from the main model only in fold and seed, or the members of the ensemble
OF_MAIN = [name for name, model in TRAINED.items() if model.variant == TRAINED[FIRST].variant]
TIMED = "minutes" in config.get("study", {})
# Baselines learn and are scored pixel by pixel.
BASELINES = (
    []
    if MODEL_FILE or any(row.has_boxes for row in VOLUMES.values() if row.split != "predict")
    else [*baselines.BASELINES]
)
FOUND = VALIDATION + TEST + PREDICT  # volumes in which cells are found
# Volumes that several networks predict: the members of the ensemble, or those in the trained model
AVERAGED = [
    name for name in FOUND if (len(MAIN.predicting(name)) if ENSEMBLE else modelfile.members(DESCRIBED)) > 1
]
SEGMENTED, DETECTED = FOUND if MODEL in LABELLED else [], FOUND if MODEL in DETECTORS else []
# Files with the detections of a volume
EXPORTS = {kind: f"<results>/detection/{{volume}}_{end}" for kind, end in boxes.EXPORTS.items()}
TABLE_OF_CELLS, SUMMARY = (
    ("<results>/segmentation/{volume}_cells.csv", "<results>/segmentation/summary.csv")
    if SEGMENTED
    else (EXPORTS["table"], "<results>/detection/summary.csv")
)
EVALUATED = VALIDATION + TEST
# Volumes shown in the report: those with scores first, some of each split, so that the report stays short for
# hundreds of volumes
TURNS = [name for turn in zip_longest(TEST, VALIDATION) for name in turn if name] + PREDICT + TRAIN
SHOWN = TURNS[: config["report"]["volumes"]]
SHOWN_ERRORS = [name for name in SHOWN if name in EVALUATED]
SHOWN_TRAIN, SHOWN_TEST = ([name for name in SHOWN if name in split] for split in (TRAIN, TEST))
DRAWN = [*dict.fromkeys(SHOWN + EVALUATED)]  # in the pictures of a detector and its charts
SHOWN_WEIGHED = [name for name in SHOWN if name not in PREDICT]
# Volumes that several jobs share
SCATTERED = [
    name for name in dict.fromkeys(SHOWN_TRAIN + HELD_OUT + TEST + PREDICT) if len(parts_of(name)) > 1
]
# Methods that need whole sections, each with the offsets of its affinities
WHOLE = {
    (method, study.offsets_of(model.settings))
    for model in VARIANTS.values()
    if (method := model.settings["segmentation"]["method"]) != "components"
}
LABELLED_IN_PARTS = [] if WHOLE else SCATTERED
# Baselines predict no affinities.
SEGMENTATION_OF_BASELINES = config["segmentation"] | (
    {"method": "components"} if config["segmentation"]["method"] == "mutex_watershed" else {}
)


def growing(first, most=math.inf):
    """Return a resource that grows with each attempt, since the first request may have been too small."""
    return lambda wildcards, attempt: min(first * attempt, most)


MEMORY_MB = growing(round(1000 * config["memory_gb"]))


try:
    if not MODEL_FILE and workflow.is_main_process:
        starts.require_starts(TRAINED, config["results"], find_beside)
    LARGEST = memory.require(memory_needs(), config["memory_gb"])
except InputError as error:
    sys.exit(f"error: {error}")
if workflow.is_main_process:
    warned = {name: model.plan.mirror_warning(SHAPES) for name, model in VARIANTS.items()}
    NOTES += [] if MODEL_FILE else study.warnings(TRAINED, GIVEN)
    if ENSEMBLE:
        members = [member.name for member in ENSEMBLE.members]
        NOTES.append(
            f"ensemble: the mean of {', '.join(members)}; its prediction takes {len(members)} times as long "
            "as that of one of them"
        )
    seen = {name: study.neighbours_note(model.plan, VOLUMES, SHAPES) for name, model in VARIANTS.items()}
    lines = NOTES + [
        f"{name}: {text}" if STUDY else text
        for found in (warned, seen)
        for name, text in found.items()
        if text
    ]
    print(*lines, sep="\n", end="\n" * bool(lines), file=sys.stderr)
    print(
        f"memory: the largest job ({LARGEST.job}) needs at least {LARGEST.bytes / 1e9:.1f} GB; jobs use up "
        f"to `memory_gb` ({config['memory_gb']:g} GB) if that makes them faster",
        file=sys.stderr,
    )


# Batches of volumes to predict in the last run. A new row of the table makes a new batch, so that the others
# are not predicted again.
BATCHES = Path(config["results"], ".batches.json")
EARLIER = read_json(BATCHES) if BATCHES.exists() else {}


def record_batches():
    """Store the batches of this run for the next one."""
    with suppress(OSError):  # the next run repeats more than it has to
        write_json(BATCHES, {"new": [batch.volumes for batch in batches_of("predict", new=PREDICT)]})


class Batch(NamedTuple):
    """Volumes that one job processes."""

    rule_name: str
    group: str  # kind of volumes, for example "test"
    name: str  # the group, with a number if it has several batches
    volumes: list[str]


def batches_of(stage, shared=(), **groups):
    """Yield the batches of the volumes in `groups` (group=volumes). Each batch has volumes of one group.

    Volumes that several jobs share (`shared`) are left out after the division, so that all stages have the same
    batches, also in jobs on a cluster, which read the table again.

    A job that runs again replaces all its outputs, so that everything that depends on them runs again, too.
    With separate groups, new images to predict do not cause a new training.
    """
    for group, names in groups.items():
        sizes = {name: math.prod(SHAPES[name]) for name in names}
        earlier = [[name for name in batch if name in sizes] for batch in EARLIER.get(group, [])]
        batches = volumes.batches(sizes, earlier=[*filter(None, earlier)])
        for number, batch in batches.items():
            name = f"{group}_{number}" if len(batches) > 1 else group
            if own := [volume for volume in batch if volume not in shared]:
                yield Batch(f"{stage}_{name}", group, name, own)


def one_of(names):
    """Return a wildcard constraint that allows only these values."""
    return "|".join(map(re.escape, names)) or "(?!)"  # an empty one would allow every value


def paths(pattern, **wildcards):
    """Return the files of a pattern with wildcards and `<results>` as `Path`, for parameters of a rule."""
    return [Path(path) for path in expand(pattern.replace("<results>", config["results"]), **wildcards)]


def paths_of(model):
    """Return the values of wildcards that depend on a model. Baselines share the files of the main model."""
    return MODELS[model].paths if model in MODELS else MAIN.paths | {"model": model, "variant": model}


def model_of(wildcards):
    """Return the model of a job: {model}, or the first model of {variant}, {dataset} and so on."""
    kinds = {
        "model": MODELS,
        "variant": VARIANTS,
        "dataset": DATASETS,
        "statistics": STATISTICS,
        "weight_map": WEIGHT_MAPS,
        "boxes": BOXES,
        "speed": SPEEDS,
    }
    found = [models[wildcards[kind]] for kind, models in kinds.items() if kind in wildcards.keys()]
    return found[0] if found else MAIN


def of_model(pattern, names=None):
    """Return an input function: the file of a pattern for the model of a job, or one for each volume.

    Wildcards have the values of the model (`study.Model.paths`). `names` are the volumes, or the attribute of
    a model that contains them.
    """

    def files(wildcards):
        model = model_of(wildcards)
        if names is None:
            return pattern.format(**model.paths, volume=wildcards.get("volume"))
        chosen = getattr(model, names) if isinstance(names, str) else names
        return [pattern.format(**model.paths, volume=name) for name in chosen]

    return files


def literal(value):
    """Return a parameter function: a value as it is. Snakemake would fill in {wildcards} of other texts."""
    return lambda wildcards: value


def setting(section):
    """Return a parameter function: a section of the settings of the model of a job."""
    return lambda wildcards: model_of(wildcards).settings[section]


def each(names=None, models=None, **arguments):
    """Return a parameter function that lists the keyword arguments of a stage for each volume and model.

    `names` are the volumes, or None for {volume}; `models` are the models, or None for {model}. Each argument
    is a file of the results (`<results>/...`), another text or None, with {volume}, {model} and what depends
    on it (`study.Model.paths`) filled in, or a function of volume and model. A dict gives one value per
    volume.
    """

    def filled(value, name, model, wildcards):
        if callable(value):
            return value(name, model)
        value = value[name] if isinstance(value, dict) else value
        if value is None:
            return None
        text = value.format(**paths_of(model) | {**wildcards, "model": model, "volume": name})
        return Path(text.replace("<results>", config["results"])) if text.startswith("<results>/") else text

    return lambda wildcards: [
        {key: filled(value, name, model, wildcards) for key, value in arguments.items()}
        for model in ([wildcards.get("model", model_of(wildcards).name)] if models is None else models)
        for name in ([wildcards.volume] if names is None else names)
    ]


def split_of(name):
    """Return the split of a volume for the main model: with folds, an ensemble is validated on all of them."""
    return "validation" if name in VALIDATION else VOLUMES[name].split


def fold_of_volumes():
    """Return the number of the fold of each volume as text, None if it is in no fold."""
    folds_of = {name: str(fold) for fold, (_, validation) in enumerate(FOLDS) for name in validation}
    return {name: folds_of.get(name) for name in VOLUMES}


def members_of(name):
    """Return the models whose mean prediction of a volume is that of the ensemble."""
    return [member.name for member in MAIN.predicting(name)]


def validation_of(model):
    """Return the volumes on which the threshold of a model or baseline is chosen."""
    return MODELS.get(model, MAIN).validation


def evaluated_of(model):
    """Return the volumes on which a model or baseline is scored."""
    return [*validation_of(model), *TEST]


def models_of(fold, names=None):
    """Return those of the models `names`, or of all that are trained, that are validated on a fold."""
    return [name for name in (TRAINED if names is None else names) if MODELS[name].fold == fold]


def files_of_models(pattern, models):
    """Return the files of a pattern for all volumes on which each of the models or baselines is scored."""
    return [pattern.format(model=model, volume=name) for model in models for name in evaluated_of(model)]


def causes_of(models):
    """Return the tables of the causes of errors, which networks that find boxes do not have."""
    own = [name for name in models if name in SEGMENTERS]
    return files_of_models("<results>/scores/{model}/causes/{volume}.csv", own)


def found_by(models):
    """Return the volumes in which some of `models` find cells, and these models, by the name of the batches.

    Further models are only scored, so they do not need the training volumes that the report shows.
    """
    return _of_kind(
        models, annotated=(SHOWN_TRAIN + EVALUATED, [MODEL]), new=(PREDICT, [*MODELS])
    ) | _of_kind(
        models,
        **{
            in_fold("held_out", fold): (validation + TEST, models_of(fold, FURTHER))
            for fold, (_, validation) in enumerate(FOLDS)
        },
    )


def scored_by(models):
    """Return the volumes on which some of `models` are scored, and these models, by the name of the batches."""
    return _of_kind(
        models,
        **{
            in_fold("held_out", fold): (validation + TEST, models_of(fold))
            for fold, (_, validation) in enumerate(FOLDS)
        },
        ensemble=(EVALUATED, [MODEL] if ENSEMBLE else []),
    )


def _of_kind(models, **groups):
    """Return groups of volumes and models with only those models that are in `models`."""
    chosen = {
        group: (names, [model for model in every if model in models])
        for group, (names, every) in groups.items()
    }
    return {group: (names, own) for group, (names, own) in chosen.items() if own}


def in_fold(group, fold):
    """Return the name of a group of volumes in a fold, for batches."""
    return f"{group}_fold{fold}" if fold else group


def choices(models=None):
    """Return a parameter function: the files of `choose_postprocessing` for `models`, or for {model}."""
    return lambda wildcards: [
        {
            "datasets": paths("<results>/dataset/{volume}.h5", volume=validation_of(model)),
            "targets": paths(
                "<results>/{dataset}/{volume}.h5", **paths_of(model), volume=validation_of(model)
            ),
            "predictions": paths(
                "<results>/prediction/{model}/{volume}.h5", model=model, volume=validation_of(model)
            ),
            "output": Path(config["results"], "postprocessing", f"{model}.json"),
            "tried": Path(config["results"], "postprocessing", f"{model}_tried.csv"),
        }
        for model in ([wildcards.model] if models is None else models)
    ]


def segmentations(names, models=None):
    """Return a parameter function: the files of `segment` for volumes `names` and `models`, or {model}."""
    return each(
        names,
        models,
        prediction="<results>/prediction/{model}/{volume}.h5",
        postprocessing="<results>/postprocessing/{model}.json",
        segmentation="<results>/segmentation/{model}/{volume}.h5",
    )


# Files that are written for people beside the labels, if the model finds the class of each pixel
PROBABILITIES = (
    {} if MAIN.detects else {"cell_probability": "<results>/segmentation/{volume}_cell_probability.tif"}
)
if not MAIN.detects and CLASSES.several:
    PROBABILITIES["classes"] = "<results>/segmentation/{volume}_classes.tif"
PREDICTION_OF_LABELS = None if MAIN.detects else "<results>/prediction/{model}/{volume}.h5"


def tiffs(names=None):
    """Return a parameter function: the files of `write_tiffs` for the volumes `names`, or for {volume}."""
    return each(
        names,
        [MODEL],
        segmentation="<results>/segmentation/{model}/{volume}.h5",
        prediction=PREDICTION_OF_LABELS,
        labels="<results>/segmentation/{volume}_labels.tif",
        **{"cell_probability": None} | PROBABILITIES,
    )


# Files that the evaluation of each pixel compares
PIXELWISE = {
    "dataset": "<results>/dataset/{volume}.h5",  # the same truth for all variants
    "target": "<results>/{dataset}/{volume}.h5",  # what the network learned
    "prediction": "<results>/prediction/{model}/{volume}.h5",
    "segmentation": "<results>/segmentation/{model}/{volume}.h5",
}


def evaluations(names, models=None, **files):
    """Return a parameter function: arguments of `evaluate` for volumes `names` and `models`, or {model}.

    `files` are the files to compare, by default those of `PIXELWISE`.
    """
    return each(
        names,
        models,
        **(files or PIXELWISE),
        postprocessing="<results>/postprocessing/{model}.json",
        output="<results>/scores/{model}/{volume}.csv",
        sections="<results>/scores/{model}/sections/{volume}.csv",
        volume="{volume}",
        split=lambda name, model: "validation" if name in validation_of(model) else "test",
        network="{model}",
        variant="{variant}",
        seed=lambda name, model: TRAINED[model].seed if model in TRAINED else None,
        fold=lambda name, model: MODELS[model].fold if model in MODELS else 0,
    )


def source_files(name):
    """Return all input files of a volume: images and, if there is one, the annotation."""
    paths = [*VOLUMES[name].paths(), *OTHERS[name]]
    return [file for path in paths for part in imageio.channel_paths(path) for file in files_of(part)]


def files_of(path):
    """Return a file, or the files of a folder or pattern: editing one does not change the folder's time."""
    if stored := imageio.zarr_path(path):
        return list(map(str, imageio.zarr_files(stored)))
    slices = imageio.are_slices(path)
    return list(map(str, imageio.slice_files(path) if slices else [imageio.source_file(path)]))


def part_files(pattern):
    """Return an input function that gives the files of all parts of a volume, in order."""
    return lambda wildcards: [
        pattern.format(**wildcards, part=number) for number, _ in enumerate(parts_of(wildcards.volume), 1)
    ]


def prediction_files(model, name):
    """Return the files of a prediction: a single one, or those of the parts of a volume for a detector."""
    if model in DETECTORS and name in SCATTERED:
        pattern = "<results>/prediction/{model}/parts/{volume}/{part}.h5"
        return [
            pattern.format(model=model, volume=name, part=number)
            for number, _ in enumerate(parts_of(name), 1)
        ]
    return [f"<results>/prediction/{model}/{name}.h5"]


def gpu_slots(section):
    """Return a resource: the GPUs a job requests, 0 if `device` is `cpu`, else 1, even without a GPU here."""
    return lambda wildcards: 0 if setting(section)(wildcards)["device"] == "cpu" else 1
