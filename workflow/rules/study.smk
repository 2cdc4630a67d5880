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
        scores=files_of_models("<results>/scores/{model}/{volume}.csv", MODELS),
        sections=files_of_models("<results>/scores/{model}/sections/{volume}.csv", MODELS),
        causes=causes_of(MODELS),
    output:
        scores="<results>/study_scores.csv",
        sections="<results>/study_scores_sections.csv",
        causes=["<results>/study_scores_causes.csv"] if causes_of(MODELS) else [],
    log:
        "<logs>/collect_study.log",
    benchmark:
        "<benchmarks>/collect_study.tsv"


# Complete models, for `bordure predict`: the first model of each variant, with its threshold and scores.
use rule package_model as package_variant with:
    input:
        models=of_model("<results>/models/{model}/model.pt", [None]),
        postprocessing=of_model("<results>/postprocessing/{model}.json"),
        scores=lambda wildcards: files_of_models(
            "<results>/scores/{model}/{volume}.csv", [model_of(wildcards).name]
        ),
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

    def file(pattern, model, volume=None):
        return pattern.format(**model.paths, results=config["results"], volume=volume)

    def trained(model):
        held_out = evaluated_of(model.name)
        return {
            "name": model.name,
            "variant": model.variant,
            "seed": model.seed,
            "fold": model.fold,
            "model": file("{results}/models/{model}/model.pt", model),
            "history": file("{results}/models/{model}/history.csv", model),
            "postprocessing": file("{results}/postprocessing/{model}.json", model),
            "scores": [file("{results}/scores/{model}/{volume}.csv", model, name) for name in held_out],
            "sections": [
                file("{results}/scores/{model}/sections/{volume}.csv", model, name) for name in held_out
            ],
        }

    # pictures show boxes unless all variants have labels
    as_boxes = not {model.name for model in VARIANTS.values()} <= {*LABELLED}

    def shown(name):
        return {
            "volume": name,
            "split": "test" if name in TEST else "validation",
            "z": SHAPES[name][0] // 2,
            "dataset": file("{results}/dataset/{volume}.h5", MAIN, name),
            "segmentations": {
                variant: file("{results}/segmentation/{model}/{volume}.h5", model, name)
                for variant, model in VARIANTS.items()
                if model.name in (SEGMENTERS if as_boxes else LABELLED)
            },
            # segmentations are drawn as boxes, too, with their probabilities as scores
            "predictions": {
                variant: file("{results}/prediction/{model}/{volume}.h5", model, name)
                for variant, model in VARIANTS.items()
                if as_boxes and model.name in SEGMENTERS
            },
            "detections": {
                variant: [
                    file("{results}/detection/{model}/{volume}.h5", model, name),
                    file("{results}/postprocessing/{model}.json", model),
                ]
                for variant, model in VARIANTS.items()
                if as_boxes and model.name in DETECTORS
            },
        }

    return {
        "title": f"Comparison: {config['report']['title']}",
        "variants": {name: changes or {} for name, changes in config["study"]["variants"].items()},
        "models": [*map(trained, TRAINED.values())],
        "speed": {name: file("{results}/speed/{speed}.json", model) for name, model in VARIANTS.items()},
        "passes": {
            name: ORIENTATIONS if model.settings["prediction"]["average_orientations"] else 1
            for name, model in VARIANTS.items()
        },
        "pictures": [*map(shown, [name for name in SHOWN_ERRORS if name in evaluated_of(FIRST)][:2])],
        "unfinished": [*unfinished],
    }


def files_in(value):
    """Yield all files of the results in nested lists and dicts."""
    if isinstance(value, str):
        yield from [value] if value.startswith(f"{config['results']}/") else ()
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from files_in(part)


rule compare:
    input:
        [*files_in([comparison()[part] for part in ("models", "speed", "pictures")])],
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
