# dataset and model -> cell probability of whole volumes


rule predict:
    input:
        dataset="<results>/dataset/{volume}.h5",
        model="<results>/model/model.pt",
    output:
        prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
    log:
        f"<logs>/predict/{NETWORK}/{{volume}}.log",
    benchmark:
        f"<benchmarks>/predict/{NETWORK}/{{volume}}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        gpu=gpu_slots("prediction"),
        mem_mb=8000,
        runtime="2h",
    params:
        prediction=config["prediction"],
    script:
        "../scripts/predict.py"


rule predict_baseline:
    input:
        dataset="<results>/dataset/{volume}.h5",
        statistics="<results>/statistics.json",
    output:
        prediction="<results>/prediction/{network}/{volume}.h5",
    log:
        "<logs>/predict/{network}/{volume}.log",
    benchmark:
        "<benchmarks>/predict/{network}/{volume}.tsv"
    wildcard_constraints:
        network="|".join(BASELINES),
    conda:
        "../../environment.yml"
    script:
        "../scripts/predict_baseline.py"
