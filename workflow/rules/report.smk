# pictures, and the report they go into


rule draw_volume_strip:
    input:
        dataset="<results>/dataset/{volume}.h5",
        weight_map=weight_map_of,
        prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
        threshold=f"<results>/threshold/{NETWORK}.json",
    output:
        strip=report(
            "<results>/figures/volume/{volume}.png",
            caption="../report/volume.rst",
            category="Volumes",
            labels={"volume": "{volume}", "figure": "from raw to segmentation"},
        ),
    log:
        "<logs>/draw_volume_strip/{volume}.log",
    benchmark:
        "<benchmarks>/draw_volume_strip/{volume}.tsv"
    conda:
        "../../environment.yml"
    params:
        split=lambda wildcards: VOLUMES[wildcards.volume].split,
        minimum_size=config["segmentation"]["minimum_size"],
    script:
        "../scripts/draw_volume_strip.py"


rule draw_errors:
    input:
        dataset="<results>/dataset/{volume}.h5",
        prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
        threshold=f"<results>/threshold/{NETWORK}.json",
    output:
        errors=report(
            "<results>/figures/errors/{volume}.png",
            caption="../report/errors.rst",
            category="Volumes",
            labels={"volume": "{volume}", "figure": "errors"},
        ),
    log:
        "<logs>/draw_errors/{volume}.log",
    benchmark:
        "<benchmarks>/draw_errors/{volume}.tsv"
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_errors.py"


rule draw_training:
    input:
        history="<results>/model/history.csv",
    output:
        figure=report(
            "<results>/figures/training.png",
            caption="../report/training.rst",
            category="Model",
            labels={"figure": "training"},
        ),
    log:
        "<logs>/draw_training.log",
    benchmark:
        "<benchmarks>/draw_training.tsv"
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_training.py"


rule draw_thresholds:
    input:
        scores="<results>/scores.csv",
        thresholds=expand("<results>/threshold/{network}.json", network=[NETWORK, *BASELINES]),
    output:
        figure=report(
            "<results>/figures/thresholds.png",
            caption="../report/thresholds.rst",
            category="Model",
            labels={"figure": "error against threshold"},
        ),
    log:
        "<logs>/draw_thresholds.log",
    benchmark:
        "<benchmarks>/draw_thresholds.tsv"
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_thresholds.py"


rule report:
    input:
        scores="<results>/scores.csv",
        history="<results>/model/history.csv",
        thresholds=expand("<results>/threshold/{network}.json", network=[NETWORK, *BASELINES]),
        statistics="<results>/statistics.json",
        model="<results>/model/model.pt",
        strips=expand("<results>/figures/volume/{volume}.png", volume=SHOWN),
        errors=expand("<results>/figures/errors/{volume}.png", volume=SHOWN_ERRORS),
        training="<results>/figures/training.png",
        error_against_threshold="<results>/figures/thresholds.png",
    output:
        report="<results>/report.html",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    conda:
        "../../environment.yml"
    params:
        title=config["report"]["title"],
        settings=config,
        volumes=[vars(volume) for volume in VOLUMES.values()],
    script:
        "../scripts/report.py"
