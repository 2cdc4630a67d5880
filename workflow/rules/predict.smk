# dataset and model -> cell probability of whole volumes


for batch, names in batches_of(*map(whole, [SHOWN_TRAIN + VALIDATION, TEST, PREDICT])):

    rule:
        name:
            f"predict_{batch}"
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=names),
            model="<results>/model/model.pt",
        output:
            expand(f"<results>/prediction/{NETWORK}/{{volume}}.h5", volume=names),
        log:
            f"<logs>/predict/{batch}.log",
        benchmark:
            f"<benchmarks>/predict/{batch}.tsv"
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            gpu=gpu_slots("prediction"),
            mem_mb=MEMORY_MB,
            runtime="2h",
        params:
            prediction=config["prediction"],
            jobs=1,
        script:
            "../scripts/predict.py"


if SCATTERED:

    rule predict_part:
        input:
            datasets=["<results>/dataset/{volume}.h5"],
            model="<results>/model/model.pt",
        output:
            f"<results>/prediction/{NETWORK}/parts/{{volume}}/{{part}}.h5",
        log:
            "<logs>/predict/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/predict/{volume}/{part}.tsv"
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            gpu=gpu_slots("prediction"),
            mem_mb=MEMORY_MB,
            runtime="2h",
        params:
            prediction=config["prediction"],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
        script:
            "../scripts/predict.py"

    rule join_predictions:
        input:
            parts=part_files(f"<results>/prediction/{NETWORK}/parts/{{volume}}/{{part}}.h5"),
        output:
            prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
        log:
            "<logs>/join_predictions/{volume}.log",
        benchmark:
            "<benchmarks>/join_predictions/{volume}.tsv"
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
