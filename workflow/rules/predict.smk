# From datasets and models to cell probabilities of whole volumes.


rule predict:
    input:
        [
            file
            for model in [MODEL, *FURTHER, *BASELINES]
            for name in (SHOWN_TRAIN + FOUND if model == MODEL else evaluated_of(model))
            for file in prediction_files(model, name)
        ],


# Further models are only scored, so they need not predict the training volumes that the report shows. These are
# others if the table gets new volumes, so they are predicted apart from the validation volumes.
PREDICTED = {
    "train": (SHOWN_TRAIN, [] if ENSEMBLE else [MODEL]),
    "test": (TEST, [*TRAINED]),
    "new": (PREDICT, [*TRAINED]),
} | {
    in_fold("validation", fold): (validation, models)
    for fold, (_, validation) in enumerate(FOLDS)
    if (models := models_of(fold))
}

for batch in batches_of(
    "predict", SCATTERED, **{group: names for group, (names, by) in PREDICTED.items() if by}
):

    rule:
        name:
            batch.rule_name
        input:
            datasets=of_model("<results>/{dataset}/{volume}.h5", batch.volumes),
            model=MODEL_FILE or "<results>/models/{model}/model.pt",
        output:
            expand("<results>/prediction/{{model}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/predict/{{model}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/predict/{{model}}/{batch.name}.tsv"
        wildcard_constraints:
            model=one_of(PREDICTED[batch.group][1]),
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            gpu=gpu_slots("prediction"),
            mem_mb=MEMORY_MB,
            runtime=growing(120),
        params:
            volumes=each(
                batch.volumes,
                dataset="<results>/{dataset}/{volume}.h5",
                output="<results>/prediction/{model}/{volume}.h5",
            ),
            prediction=setting("prediction"),
        script:
            "../scripts/predict.py"


if SCATTERED:

    rule predict_part:
        input:
            dataset=of_model("<results>/{dataset}/{volume}.h5"),
            model=MODEL_FILE or "<results>/models/{model}/model.pt",
        output:
            prediction="<results>/prediction/{model}/parts/{volume}/{part}.h5",
        log:
            "<logs>/predict/{model}/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/predict/{model}/{volume}/{part}.tsv"
        wildcard_constraints:
            model=one_of(TRAINED),
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            gpu=gpu_slots("prediction"),
            mem_mb=MEMORY_MB,
            runtime=growing(120),
        params:
            prediction=setting("prediction"),
            part=lambda wildcards: int(wildcards.part),
            jobs=lambda wildcards: jobs_of(wildcards.volume),
        script:
            "../scripts/predict_part.py"

    # Boxes of parts are joined when those that overlap are removed (detect_in_parts).
    rule join_predictions:
        input:
            parts=part_files("<results>/prediction/{model}/parts/{volume}/{part}.h5"),
        output:
            prediction="<results>/prediction/{model}/{volume}.h5",
        log:
            "<logs>/join_predictions/{model}/{volume}.log",
        benchmark:
            "<benchmarks>/join_predictions/{model}/{volume}.tsv"
        wildcard_constraints:
            model=one_of(SEGMENTERS),
        conda:
            "../../environment.yml"
        params:
            shape=lambda wildcards: SHAPES[wildcards.volume],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
        script:
            "../scripts/join_predictions.py"


if ENSEMBLE:

    for batch in batches_of("average", SCATTERED, held_out=VALIDATION, test=TEST, new=PREDICT):

        rule:
            name:
                batch.rule_name
            input:
                [
                    file
                    for name in batch.volumes
                    for file in expand(
                        "<results>/prediction/{model}/{volume}.h5", model=members_of(name), volume=name
                    )
                ],
            output:
                expand("<results>/prediction/{model}/{volume}.h5", model=MODEL, volume=batch.volumes),
            log:
                f"<logs>/average/{batch.name}.log",
            benchmark:
                f"<benchmarks>/average/{batch.name}.tsv"
            group:
                FINISH
            conda:
                "../../environment.yml"
            resources:
                mem_mb=MEMORY_MB,
            params:
                volumes=each(
                    batch.volumes,
                    [MODEL],
                    predictions=lambda name, model: paths(
                        "<results>/prediction/{model}/{volume}.h5", model=members_of(name), volume=name
                    ),
                    output="<results>/prediction/{model}/{volume}.h5",
                ),
            script:
                "../scripts/average.py"

    if SCATTERED:

        rule average_part:
            input:
                lambda wildcards: expand(
                    "<results>/prediction/{model}/parts/{volume}/{part}.h5",
                    model=members_of(wildcards.volume),
                    **wildcards,
                ),
            output:
                f"<results>/prediction/{MODEL}/parts/{{volume}}/{{part}}.h5",
            log:
                "<logs>/average/{volume}/{part}.log",
            benchmark:
                "<benchmarks>/average/{volume}/{part}.tsv"
            conda:
                "../../environment.yml"
            resources:
                mem_mb=MEMORY_MB,
            params:
                volumes=lambda wildcards, input, output: [{"predictions": [*input], "output": output[0]}],
            script:
                "../scripts/average.py"


for batch in batches_of("predict", baselines=EVALUATED):

    rule:
        name:
            batch.rule_name
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=batch.volumes),
            statistics="<results>/statistics.json",
        output:
            expand("<results>/prediction/{model}/{volume}.h5", model=BASELINES, volume=batch.volumes),
        log:
            f"<logs>/predict_baselines/{batch.name}.log",
        benchmark:
            f"<benchmarks>/predict_baselines/{batch.name}.tsv"
        group:
            DERIVE
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                models=BASELINES,
                dataset="<results>/dataset/{volume}.h5",
                output="<results>/prediction/{model}/{volume}.h5",
                network="{model}",
            ),
        script:
            "../scripts/predict_baselines.py"
