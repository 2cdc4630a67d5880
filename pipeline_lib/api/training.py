"""Train a model on arrays or files, with the stages of the workflow."""

from __future__ import annotations

import importlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pipeline_lib.api.arrays import Files, Image, channels_of, files
from pipeline_lib.api.models import Model, load
from pipeline_lib.kernels.threads import cores
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger, set_waiting, show_unless_set_up
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    from pipeline_lib.data.volumes import Volume

Images: TypeAlias = Image | Sequence[Image]
"""An image, or a list of images."""

PACKAGE = Path(__file__).resolve().parents[1]
#: Keys of a config that `train` does not have.
OF_WORKFLOW = (
    *("volumes", "data_dir", "results", "model", "drawing", "report"),
    *("seeds", "folds", "ensemble", "study"),
)
VALIDATIONS = 20  # during a training whose iterations follow from a time
THREADS = {"train": 16, "others": 8}  # at most, as the rules of the workflow have


def train(
    images: Images,
    annotations: Images,
    *,
    validation: tuple[Images, Images],
    test: tuple[Images, Images] | None = None,
    model: str | Path = "model.pt",
    minutes: float | None = None,
    folder: str | Path | None = None,
    threads: int | None = None,
    replace: bool = False,
    **settings: Any,
) -> Model:
    """Train a model on images and their annotations, and choose its threshold on others.

    This runs the stages of the workflow up to the complete model file. Images, settings and number of threads
    being the same, the model is the same as that of the workflow. As there, doubts about the annotations stop
    the training, unless `check={"accept": [...]}` accepts them.

    Parameters
    ----------
    images : array_like, str or Path, or a list of these
        Training images: (y, x), (z, y, x) or (c, z, y, x).
    annotations : array_like, str or Path, or a list of these
        Annotation of each image: (y, x) or (z, y, x). Labels with 0 = background, membranes or classes.
    validation : tuple of (images, annotations)
        Further images with annotations, on which the best state of the network and the threshold are chosen.
        Take them from other sections or cells than the training images.
    test : tuple of (images, annotations), optional
        Further images with annotations that are only scored.
    model : str or Path, default "model.pt"
        Model file to write. A page with pictures of the annotations is written next to it
        (`model_check.html`).
    minutes : float, optional
        Time of the training (min). The number of iterations follows from the speed of this machine, which is
        measured. By default the setting `training={"iterations": ...}` decides.
    folder : str or Path, optional
        Folder for intermediate files, which are kept: datasets, predictions, scores of each image, the
        history of the training. An interrupted training resumes there. By default a temporary folder.
    threads : int, optional
        Number of CPU threads. By default one for each core.
    replace : bool, default False
        Whether an existing file `model` is replaced. A copy stays in the folder `replaced` next to it.
    **settings
        Settings of the config, section by section: `network={"depth": 2}, training={"tile": 108}`. With
        `training={"start_from": "old.pt"}`, the training starts from a trained model.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    InputError
        If an image, annotation or setting cannot be used, a doubt about the annotations stops the training,
        or the file `model` exists and `replace` is False.

    Examples
    --------
    >>> from pipeline_lib import api
    >>> model = api.train(
    ...     ["a.tif", "b.tif"],
    ...     ["a_labels.tif", "b_labels.tif"],
    ...     validation=("c.tif", "c_labels.tif"),
    ...     minutes=20,
    ... )  # doctest: +SKIP
    """
    show_unless_set_up()
    set_waiting()
    if Path(model).exists() and not replace:
        raise InputError(
            f"{model}: exists. To use it, write `api.load({str(model)!r})`. To train another one, choose a "
            "different name with `model=`, or add `replace=True`, which keeps a copy of the old one."
        )
    with files(folder) as written:
        given = {"train": (images, annotations), "validation": validation}
        volumes = [*_volumes(written, given if test is None else given | {"test": test})]
        config = _complete(settings, images, volumes)
        threads = cores() if threads is None else threads
        if minutes is not None:
            _set_iterations(config, settings, minutes, threads)
        try:
            _run(volumes, config, written.folder, Path(model), threads)
        except InputError:
            for picture in [] if folder else (written.folder / "dataset").glob("*.unclear.png"):
                kept = Path(model).with_name(f"{Path(model).stem}_{picture.name}")
                shutil.copy(picture, kept)
                written.names = {str(picture): str(kept)} | written.names
            raise
    return load(model, device=config["prediction"]["device"], memory_gb=config["memory_gb"])


def _volumes(written: Files, given: dict[str, tuple[Images, Images]]) -> Iterator[Volume]:
    """Yield the images and annotations of each split, arrays as files."""
    from pipeline_lib.data.volumes import Volume

    names = {"train": ("images", "annotations")}
    for split, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"{split}: found {type(pair).__name__}, expected a pair (images, annotations).")
        names_of_pair = names.get(split, (f"{split}[0]", f"{split}[1]"))
        lists = [_listed(own, name) for own, name in zip(pair, names_of_pair, strict=True)]
        if len(lists[0]) != len(lists[1]) or not lists[0]:
            raise InputError(
                f"{names_of_pair[0]}: found {len(lists[0])} images and {len(lists[1])} annotations, expected "
                "one annotation for each image."
            )
        for number, (image, annotation) in enumerate(zip(*lists, strict=True), 1):
            yield Volume(
                f"{split}_{number}" if len(lists[0]) > 1 else split,
                written.path(image[1], image[0]),
                written.path(annotation[1], annotation[0], labels=True),
                sections="",
                split=split,
                row=image[0],
            )


def _listed(images: Images, name: str) -> list[tuple[str, Image]]:
    """Return images with the names that messages call them; a list or tuple has one for each item."""
    if isinstance(images, list | tuple):
        return [(f"{name}[{number}]", image) for number, image in enumerate(images)]
    return [(name, cast(Image, images))]


def _complete(settings: Json, images: Images, volumes: Sequence[Volume]) -> Json:
    """Return all settings of the config, with the defaults of its schema, and lengths in um as px."""
    from pipeline_lib import imageio

    for key in OF_WORKFLOW:
        if key in settings:
            raise InputError(
                f"{key}: is a setting of the workflow, which `train` does not have. Remove it, or write a "
                "config and type `bordure run`."
            )
    of_workflow = _of_workflow("settings")
    first = images[0] if isinstance(images, list | tuple) else images
    channels = channels_of(cast(Image, first))
    stated = {} if channels is None else {"channels": channels}
    dataset = settings.get("dataset", {})
    if isinstance(dataset, dict):  # otherwise `complete` raises an error
        settings = settings | {"dataset": stated | dataset}
    config: Json = of_workflow.complete({"volumes": "none"} | settings)
    in_files = {volume.volume: imageio.inspect(volume.images).pixel_size for volume in volumes}
    config, lines = _of_workflow("lengths").convert(config, volumes, in_files)
    for line in lines:
        logger.info("%s", line)
    return config


def _of_workflow(module: str) -> Any:
    """Return a module of the workflow, which has the schema of all settings."""
    folders = (PACKAGE.parent / "workflow", PACKAGE / "workflow")  # of a checkout, of an installed package
    folder = str(next(filter(Path.is_dir, folders)))
    sys.path.append(folder)
    try:
        return importlib.import_module(f"bordure.{module}")
    finally:
        sys.path.remove(folder)


def _set_iterations(config: Json, settings: Json, minutes: float, threads: int) -> None:
    """Set the iterations that take a time, and validate as often as usual unless stated otherwise."""
    stated = settings.get("training", {})
    if "iterations" in stated:
        raise InputError(
            f"minutes: found {minutes:g}, and `training` has `iterations`; expected one of them. Remove one."
        )
    if not minutes > 0:
        raise InputError(f"minutes: found {minutes:g}, expected a number above 0.")
    from pipeline_lib import imageio
    from pipeline_lib.tasks.segmentation.classes import Classes
    from pipeline_lib.training.speed import measure_speed

    training, classes = config["training"], Classes.chosen(config["dataset"])
    seconds = measure_speed(
        config["network"],
        training,
        config["augmentation"],
        channels=imageio.number_of(config["dataset"]["channels"]),
        classes=classes.names,
        cells=classes.cells,
        threads=min(threads, THREADS["train"]),
    )
    iterations = max(int(float(f"{60 * minutes / seconds:.2g}")), 1)
    training["iterations"] = iterations
    if "validation_interval" not in stated:
        training["validation_interval"] = math.ceil(iterations / VALIDATIONS)
    logger.info(
        "%d iterations take about %g min at %.2g s each, measured here. To train the same model again, write "
        'training={"iterations": %d, "validation_interval": %d} instead of minutes.',
        iterations,
        minutes,
        seconds,
        iterations,
        training["validation_interval"],
    )


def _run(volumes: Sequence[Volume], config: Json, folder: Path, model: Path, threads: int) -> None:
    """Run the stages of the workflow up to the complete model file."""
    from pipeline_lib import imageio, layout
    from pipeline_lib.stages import training
    from pipeline_lib.stages.acceptance import require_accepted
    from pipeline_lib.stages.boxes import choose_boxes
    from pipeline_lib.stages.check import check
    from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
    from pipeline_lib.stages.detection import choose_score, detect, evaluate_detections
    from pipeline_lib.stages.evaluation import evaluate
    from pipeline_lib.stages.packaging import package_model
    from pipeline_lib.stages.postprocessing import choose_postprocessing
    from pipeline_lib.stages.prediction import predict
    from pipeline_lib.stages.segmentation import segment

    name = config["network"]["name"]
    memory: Json = {"memory_gb": config["memory_gb"]}
    blocks: Json = {"block": config["block"]}
    shared: Json = memory | {"threads": min(threads, THREADS["others"])}
    channels = imageio.number_of(config["dataset"]["channels"])
    study = _of_workflow("study")
    [trained_as] = study.models({name: config}, [([], [])], channels).values()
    plan, detects = trained_as.plan, trained_as.detects
    study.require_task(config, plan)
    plan.require_training(config["training"])
    if start := config["training"].get("start_from"):
        from pipeline_lib.networks.transfer import plan_of, require_start

        require_start(plan_of(start), plan, str(start), config["training"].get("keep_normalisation"))

    def file(part: str, volume: Volume, suffix: str = ".h5") -> Path:
        return folder / part / f"{volume.volume}{suffix}"

    def files_of(part: str, split: str) -> list[Path]:
        return [file(part, volume) for volume in volumes if volume.split == split]

    for volume in volumes:
        build_dataset(
            volume.images,
            volume.annotation,
            file("dataset", volume),
            **blocks,
            **memory,
            **config["dataset"],
        )
    page = model.with_name(f"{model.stem}_check.html")
    doubts = folder / "check.json"
    described = [
        {"volume": volume.volume, "split": volume.split, "dataset": file("dataset", volume)}
        for volume in volumes
    ]
    check(described, page, doubts, context=plan.geometry.context, **config["check"])
    require_accepted(doubts, page, folder / "check_passed.json")
    statistics = folder / "statistics.json"
    measure_statistics(
        files_of("dataset", "train"), statistics, normalisation_kind=config["normalisation"], **memory
    )
    learned = "dataset" if detects else "weight_map"  # a detector learns from the boxes in the datasets
    boxes = folder / "boxes.json" if detects else None
    if boxes:
        choose_boxes(files_of("dataset", "train"), boxes, network=config["network"])
    for volume in volumes:
        if volume.split != "test" and not detects:
            build_weight_map(
                file("dataset", volume),
                statistics,
                file("weight_map", volume),
                **blocks,
                **config["weight_map"],
            )
    trained = folder / "models" / name / "model.pt"
    training.train(
        files_of("dataset", "train"),
        files_of(learned, "train"),
        files_of("dataset", "validation"),
        files_of(learned, "validation"),
        statistics,
        trained,
        trained.with_name("history.csv"),
        network=config["network"],
        training=config["training"],
        augmentation=config["augmentation"],
        seed=config["seed"],
        boxes=boxes,
        threads=min(threads, THREADS["train"]),
    )
    held_out = [volume for volume in volumes if volume.split != "train"]
    for volume in held_out:
        predict(
            file("dataset", volume), trained, file("prediction", volume), **shared, **config["prediction"]
        )
    chosen = folder / f"postprocessing/{name}.json"
    names: Json = {"network": name, "seed": config["seed"]}
    if detects:
        for volume in held_out:
            with layout.require(file("dataset", volume), layout.RAW) as data:
                shape = data[layout.RAW.name].shape[1:]
            one = config["detection"]["one_per_section"]
            detect([file("prediction", volume)], file("detection", volume), shape=shape, one_per_section=one)
        choose_score(
            files_of("dataset", "validation"),
            files_of("detection", "validation"),
            chosen,
            **config["detection"],
        )
    else:
        choose_postprocessing(
            files_of("dataset", "validation"),
            files_of("prediction", "validation"),
            chosen,
            **shared,
            **config["segmentation"],
        )
    for volume in held_out:
        scores, sections = file("scores", volume, ".csv"), file("scores/sections", volume, ".csv")
        own: Json = names | {"volume": volume.volume, "split": volume.split}
        if detects:
            evaluate_detections(
                file("dataset", volume), file("detection", volume), chosen, scores, sections, **own
            )
            continue
        segment(file("prediction", volume), chosen, file("segmentation", volume), **blocks, **memory)
        evaluate(
            file("dataset", volume),
            file("prediction", volume),
            file("segmentation", volume),
            chosen,
            scores,
            sections,
            **own,
            **shared,
        )
    if model.exists():
        _of_workflow("replacement").keep(model, None)
    package_model(
        trained,
        chosen,
        [file("scores", volume, ".csv") for volume in held_out],
        model,
        network=name,
        channels=config["dataset"]["channels"],
        average_orientations=config["prediction"]["average_orientations"],
    )
