# dataset and model -> cell probability of whole volumes


for suffix, network in TRAINED.items():
    model = "model/seed{seed}/model.pt" if suffix else "model/model.pt"
    groups = [VALIDATION, TEST] if suffix else [SHOWN_TRAIN + VALIDATION, TEST, PREDICT]

    for batch, names in batches_of(*map(whole, groups)):

        rule:
            name:
                f"predict{suffix}_{batch}"
            input:
                datasets=expand("<results>/dataset/{volume}.h5", volume=names),
                model=f"<results>/{model}",
            output:
                expand("<results>/prediction/{network}/{volume}.h5", network=network, volume=names),
            log:
                f"<logs>/predict/{network}/{batch}.log",
            benchmark:
                f"<benchmarks>/predict/{network}/{batch}.tsv"
            conda:
                "../../environment.yml"
            threads: 8
            resources:
                gpu=gpu_slots("prediction"),
                mem_mb=MEMORY_MB,
                runtime=growing(120),
            params:
                prediction=config["prediction"],
                jobs=1,
            script:
                "../scripts/predict.py"

    if SCATTERED:

        rule:
            name:
                f"predict_part{suffix}"
            input:
                datasets=["<results>/dataset/{volume}.h5"],
                model=f"<results>/{model}",
            output:
                f"<results>/prediction/{network}/parts/{{volume}}/{{part}}.h5",
            log:
                f"<logs>/predict/{network}/{{volume}}/{{part}}.log",
            benchmark:
                f"<benchmarks>/predict/{network}/{{volume}}/{{part}}.tsv"
            conda:
                "../../environment.yml"
            threads: 8
            resources:
                gpu=gpu_slots("prediction"),
                mem_mb=MEMORY_MB,
                runtime=growing(120),
            params:
                prediction=config["prediction"],
                jobs=lambda wildcards: jobs_of(wildcards.volume),
            script:
                "../scripts/predict.py"

        rule:
            name:
                f"join_predictions{suffix}"
            input:
                parts=part_files(f"<results>/prediction/{network}/parts/{{volume}}/{{part}}.h5"),
            output:
                prediction=f"<results>/prediction/{network}/{{volume}}.h5",
            log:
                f"<logs>/join_predictions/{network}/{{volume}}.log",
            benchmark:
                f"<benchmarks>/join_predictions/{network}/{{volume}}.tsv"
            conda:
                "../../environment.yml"
            params:
                shape=lambda wildcards: SHAPES[wildcards.volume],
                jobs=lambda wildcards: jobs_of(wildcards.volume),
            script:
                "../scripts/join_predictions.py"


for batch, names in batches_of(EVALUATED):

    rule:
        name:
            f"predict_baselines_{batch}"
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=names),
            statistics="<results>/statistics.json",
        output:
            expand("<results>/prediction/{network}/{volume}.h5", network=baselines.BASELINES, volume=names),
        log:
            f"<logs>/predict_baselines/{batch}.log",
        benchmark:
            f"<benchmarks>/predict_baselines/{batch}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            networks=baselines.BASELINES,
        script:
            "../scripts/predict_baselines.py"
