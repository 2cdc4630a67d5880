# With `study:` in the config: what each variant costs, and the page that compares the variants.


rule measure_speeds:
    input:
        expand("<results>/speed/{speed}.json", speed=SPEEDS),


# The times of this file are measured once. A training depends on the file, so that it can be repeated.
rule measure_speed:
    output:
        speed="<results>/speed/{speed}.json",
    log:
        "<logs>/measure_speed/{speed}.log",
    benchmark:
        "<benchmarks>/measure_speed/{speed}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        gpu=gpu_slots("training"),
        mem_mb=MEMORY_MB,
    params:
        **{
            key: lambda wildcards, key=key: model_of(wildcards).step[key]
            for key in ("network", "training", "augmentation", "channels", "classes", "cells")
        },
        minutes=config["study"].get("minutes"),
    script:
        "../scripts/measure_speed.py"


# The table `scores.csv` has only the main variant, so that its report does not wait for the others.
use rule collect_scores as collect_study with:
    input:
        scores=[f"<results>/scores/{model}/{name}.csv" for model in MODELS for name in evaluated_of(model)],
        sections=[
            f"<results>/scores/{model}/sections/{name}.csv"
            for model in MODELS
            for name in evaluated_of(model)
        ],
    output:
        scores="<results>/study_scores.csv",
        sections="<results>/study_scores_sections.csv",
    log:
        "<logs>/collect_study.log",
    benchmark:
        "<benchmarks>/collect_study.tsv"


# Complete models, for `bordure predict`: the first model of each variant, with its threshold and scores.
use rule package_model as package_variant with:
    input:
        model=of_model("<results>/models/{model}/model.pt"),
        postprocessing=of_model("<results>/postprocessing/{model}.json"),
        scores=of_model("<results>/scores/{model}/{volume}.csv", EVALUATED),
    output:
        "<results>/variants/{variant}.pt",
    log:
        "<logs>/package_variant/{variant}.log",
    benchmark:
        "<benchmarks>/package_variant/{variant}.tsv"
    params:
        network=lambda wildcards: model_of(wildcards).name,
        average_orientations=lambda wildcards: setting("prediction")(wildcards)["average_orientations"],
        channels=CHANNELS,


def comparison(unfinished=()):
    """Return the arguments of `stages.comparison.Contents` as dicts and texts."""

    def files(pattern, model, names=(None,)):
        return [pattern.format(**model.paths, results=config["results"], volume=name) for name in names]

    shown = SHOWN_ERRORS[:2]
    return {
        "title": f"Comparison: {config['report']['title']}",
        "variants": {name: changes or {} for name, changes in config["study"]["variants"].items()},
        "models": [
            {
                "name": model.name,
                "variant": model.variant,
                "seed": model.seed,
                "fold": model.fold,
                "model": files("{results}/models/{model}/model.pt", model)[0],
                "history": files("{results}/models/{model}/history.csv", model)[0],
                "postprocessing": files("{results}/postprocessing/{model}.json", model)[0],
                "scores": files("{results}/scores/{model}/{volume}.csv", model, evaluated_of(model.name)),
                "sections": files(
                    "{results}/scores/{model}/sections/{volume}.csv", model, evaluated_of(model.name)
                ),
            }
            for model in MODELS.values()
        ],
        "passes": {
            name: ORIENTATIONS if model.settings["prediction"]["average_orientations"] else 1
            for name, model in VARIANTS.items()
        },
        "unfinished": [*unfinished],
        "speed": {name: f"{config['results']}/speed/{model.speed}.json" for name, model in VARIANTS.items()},
        "pictures": [
            {
                "volume": name,
                "split": "test" if name in TEST else "validation",
                "z": SHAPES[name][0] // 2,
                "dataset": files("{results}/{dataset}/{volume}.h5", MAIN, [name])[0],
                "segmentations": {
                    variant: files("{results}/segmentation/{model}/{volume}.h5", model, [name])[0]
                    for variant, model in VARIANTS.items()
                },
            }
            for name in shown
        ],
    }


def compared_files():
    """Return all files that the comparison shows."""
    found = comparison()
    for model in found["models"]:
        yield from (model["model"], model["history"], model["postprocessing"])
        yield from model["scores"] + model["sections"]
    yield from found["speed"].values()
    for shown in found["pictures"]:
        yield from (shown["dataset"], *shown["segmentations"].values())


rule compare:
    input:
        [*compared_files()],
    output:
        page="<results>/comparison.html",
        table="<results>/comparison.csv",
    log:
        "<logs>/compare.log",
    benchmark:
        "<benchmarks>/compare.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        contents=comparison(),
    script:
        "../scripts/compare.py"


def compare_finished():
    """Write the comparison of the models that are complete, after a run in which some jobs failed.

    The page states what is missing. The next run makes it again, because the page has an old date.
    """
    from pipeline_lib.stages.comparison import Contents, write_comparison

    unfinished = [str(file) for job in workflow.dag.needrun_jobs() for file in job.output]
    contents = Contents.of(comparison(unfinished))
    if not contents.complete:
        return
    written = [Path(config["results"], f"comparison.{suffix}") for suffix in ("html", "csv")]
    with suppress(InputError, OSError):  # the reason for the failed run is printed
        write_comparison(contents, *written)
        for path in written:
            os.utime(path, (0, 0))
        print(f"comparison    {written[0]} (of the models that are complete)")
