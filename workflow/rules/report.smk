# pictures, the report they go into, and where all files come from


rule draw_volumes:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=SHOWN),
        weight_maps=expand("<results>/weight_map/{volume}.h5", volume=SHOWN_WEIGHED),
        predictions=expand(f"<results>/prediction/{NETWORK}/{{volume}}.h5", volume=SHOWN),
        threshold=f"<results>/threshold/{NETWORK}.json",
    output:
        strips=pictures("volume", SHOWN, "from raw to segmentation"),
        errors=pictures("errors", SHOWN_ERRORS, "errors"),
    log:
        "<logs>/draw_volumes.log",
    benchmark:
        "<benchmarks>/draw_volumes.tsv"
    conda:
        "../../environment.yml"
    resources:
        mem_mb=MEMORY_MB,
    params:
        volumes={name: VOLUMES[name].split for name in SHOWN},
        minimum_size=config["segmentation"]["minimum_size"],
    script:
        "../scripts/draw_volumes.py"


rule draw_charts:
    input:
        history="<results>/model/history.csv",
        scores="<results>/scores.csv",
        thresholds=expand("<results>/threshold/{network}.json", network=NETWORKS),
    output:
        training=report(
            "<results>/figures/training.png",
            caption="../report/training.rst",
            category="Model",
            labels={"figure": "training"},
        ),
        thresholds=report(
            "<results>/figures/thresholds.png",
            caption="../report/thresholds.rst",
            category="Model",
            labels={"figure": "error against threshold"},
        ),
    log:
        "<logs>/draw_charts.log",
    benchmark:
        "<benchmarks>/draw_charts.tsv"
    conda:
        "../../environment.yml"
    script:
        "../scripts/draw_charts.py"


rule report:
    input:
        scores="<results>/scores.csv",
        spread=["<results>/scores_spread.csv"] if RETRAINED_NETWORKS else [],
        history="<results>/model/history.csv",
        thresholds=expand("<results>/threshold/{network}.json", network=NETWORKS),
        statistics="<results>/statistics.json",
        model="<results>/model/model.pt",
        strips=expand("<results>/figures/volume/{volume}.png", volume=SHOWN),
        errors=expand("<results>/figures/errors/{volume}.png", volume=SHOWN_ERRORS),
        training="<results>/figures/training.png",
        error_against_threshold="<results>/figures/thresholds.png",
        segmentations=expand("<results>/segmentation/{volume}_labels.tif", volume=SEGMENTED),
    output:
        report="<results>/report.html",
        provenance="<results>/provenance.html",
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
