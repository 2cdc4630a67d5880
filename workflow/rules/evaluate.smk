# cell probability -> threshold, segmentation, scores


rule choose_threshold:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
        predictions=expand("<results>/prediction/{{network}}/{volume}.h5", volume=VALIDATION),
    output:
        threshold="<results>/threshold/{network}.json",
    log:
        "<logs>/choose_threshold/{network}.log",
    benchmark:
        "<benchmarks>/choose_threshold/{network}.tsv"
    conda:
        "../../environment.yml"
    params:
        segmentation=config["segmentation"],
    script:
        "../scripts/choose_threshold.py"


rule segment:
    input:
        prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
        threshold=f"<results>/threshold/{NETWORK}.json",
    output:
        labels="<results>/segmentation/{volume}_labels.tif",
        cell_probability="<results>/segmentation/{volume}_cell_probability.tif",
    log:
        "<logs>/segment/{volume}.log",
    benchmark:
        "<benchmarks>/segment/{volume}.tsv"
    conda:
        "../../environment.yml"
    params:
        minimum_size=config["segmentation"]["minimum_size"],
    script:
        "../scripts/segment.py"


rule evaluate:
    input:
        dataset="<results>/dataset/{volume}.h5",
        prediction="<results>/prediction/{network}/{volume}.h5",
        threshold="<results>/threshold/{network}.json",
    output:
        scores="<results>/scores/{network}/{volume}.csv",
    log:
        "<logs>/evaluate/{network}/{volume}.log",
    benchmark:
        "<benchmarks>/evaluate/{network}/{volume}.tsv"
    conda:
        "../../environment.yml"
    params:
        split=lambda wildcards: VOLUMES[wildcards.volume].split,
        minimum_size=config["segmentation"]["minimum_size"],
    script:
        "../scripts/evaluate.py"


rule collect_scores:
    input:
        scores=expand(
            "<results>/scores/{network}/{volume}.csv",
            network=[NETWORK, *BASELINES],
            volume=EVALUATED,
        ),
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
