# cell probability -> threshold, scores, and their spread over seeds


for suffix, network in TRAINED.items():
    networks = [network] if suffix else NETWORKS

    rule:
        name:
            f"choose_thresholds{suffix}"
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
            predictions=expand(
                "<results>/prediction/{network}/{volume}.h5", network=networks, volume=VALIDATION
            ),
        output:
            thresholds=expand("<results>/threshold/{network}.json", network=networks),
        log:
            f"<logs>/choose_thresholds/{network}.log",
        benchmark:
            f"<benchmarks>/choose_thresholds/{network}.tsv"
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
                f"evaluate{suffix}_{batch}"
            input:
                datasets=expand("<results>/dataset/{volume}.h5", volume=names),
                predictions=expand(
                    "<results>/prediction/{network}/{volume}.h5", network=networks, volume=names
                ),
                thresholds=expand("<results>/threshold/{network}.json", network=networks),
            output:
                expand("<results>/scores/{network}/{volume}.csv", network=networks, volume=names),
            log:
                f"<logs>/evaluate/{network}/{batch}.log",
            benchmark:
                f"<benchmarks>/evaluate/{network}/{batch}.tsv"
            conda:
                "../../environment.yml"
            threads: 8
            resources:
                mem_mb=MEMORY_MB,
            params:
                volumes={name: VOLUMES[name].split for name in names},
                minimum_size=config["segmentation"]["minimum_size"],
            script:
                "../scripts/evaluate.py"


rule collect_scores:
    input:
        scores=expand(
            "<results>/scores/{network}/{volume}.csv",
            network=NETWORKS + RETRAINED_NETWORKS,
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


if RETRAINED_NETWORKS:

    rule measure_spread:
        input:
            scores="<results>/scores.csv",
            thresholds=expand("<results>/threshold/{network}.json", network=[NETWORK, *RETRAINED_NETWORKS]),
        output:
            spread="<results>/scores_spread.csv",
        log:
            "<logs>/measure_spread.log",
        benchmark:
            "<benchmarks>/measure_spread.tsv"
        conda:
            "../../environment.yml"
        script:
            "../scripts/measure_spread.py"
