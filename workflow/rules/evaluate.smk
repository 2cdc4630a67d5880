# cell probability -> threshold, scores


rule choose_thresholds:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
        predictions=expand("<results>/prediction/{network}/{volume}.h5", network=NETWORKS, volume=VALIDATION),
    output:
        thresholds=expand("<results>/threshold/{network}.json", network=NETWORKS),
    log:
        "<logs>/choose_thresholds.log",
    benchmark:
        "<benchmarks>/choose_thresholds.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=MEMORY_MB,
    params:
        segmentation=config["segmentation"],
    script:
        "../scripts/choose_thresholds.py"


for batch, names in batches_of(EVALUATED):

    rule:
        name:
            f"evaluate_{batch}"
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=names),
            predictions=expand("<results>/prediction/{network}/{volume}.h5", network=NETWORKS, volume=names),
            thresholds=expand("<results>/threshold/{network}.json", network=NETWORKS),
        output:
            expand("<results>/scores/{network}/{volume}.csv", network=NETWORKS, volume=names),
        log:
            f"<logs>/evaluate/{batch}.log",
        benchmark:
            f"<benchmarks>/evaluate/{batch}.tsv"
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            mem_mb=MEMORY_MB,
        params:
            networks=NETWORKS,
            volumes={name: VOLUMES[name].split for name in names},
            minimum_size=config["segmentation"]["minimum_size"],
        script:
            "../scripts/evaluate.py"


rule collect_scores:
    input:
        scores=expand("<results>/scores/{network}/{volume}.csv", network=NETWORKS, volume=EVALUATED),
    output:
        scores="<results>/scores.csv",
    log:
        "<logs>/collect_scores.log",
    benchmark:
        "<benchmarks>/collect_scores.tsv"
    conda:
        "../../environment.yml"
    script:
        "../scripts/collect_scores.py"
