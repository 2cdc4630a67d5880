# cell probability and threshold -> instances, for Fiji and napari


for batch, names in batches_of(whole(SEGMENTED)):

    rule:
        name:
            f"segment_{batch}"
        input:
            predictions=expand(f"<results>/prediction/{NETWORK}/{{volume}}.h5", volume=names),
            threshold=f"<results>/threshold/{NETWORK}.json",
        output:
            labels=expand("<results>/segmentation/{volume}_labels.tif", volume=names),
            cell_probabilities=expand("<results>/segmentation/{volume}_cell_probability.tif", volume=names),
        log:
            f"<logs>/segment/{batch}.log",
        benchmark:
            f"<benchmarks>/segment/{batch}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            minimum_size=config["segmentation"]["minimum_size"],
        script:
            "../scripts/segment.py"


if SCATTERED:

    rule label_part:
        input:
            prediction=f"<results>/prediction/{NETWORK}/parts/{{volume}}/{{part}}.h5",
            threshold=f"<results>/threshold/{NETWORK}.json",
        output:
            pieces=temp("<results>/segmentation/parts/{volume}/{part}_pieces.h5"),
        log:
            "<logs>/label_part/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/label_part/{volume}/{part}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        script:
            "../scripts/label_part.py"

    rule number_parts:
        input:
            pieces=part_files("<results>/segmentation/parts/{volume}/{part}_pieces.h5"),
        output:
            numbers=temp("<results>/segmentation/parts/{volume}/numbers.h5"),
        log:
            "<logs>/number_parts/{volume}.log",
        benchmark:
            "<benchmarks>/number_parts/{volume}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            shape=lambda wildcards: SHAPES[wildcards.volume],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
            minimum_size=config["segmentation"]["minimum_size"],
        script:
            "../scripts/number_parts.py"

    rule relabel_part:
        input:
            pieces="<results>/segmentation/parts/{volume}/{part}_pieces.h5",
            numbers="<results>/segmentation/parts/{volume}/numbers.h5",
        output:
            labels="<results>/segmentation/parts/{volume}/{part}_labels.h5",
        log:
            "<logs>/relabel_part/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/relabel_part/{volume}/{part}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        script:
            "../scripts/relabel_part.py"

    rule join_labels:
        input:
            parts=part_files("<results>/segmentation/parts/{volume}/{part}_labels.h5"),
            prediction=f"<results>/prediction/{NETWORK}/{{volume}}.h5",
        output:
            joined="<results>/segmentation/{volume}_labels.h5",
            labels="<results>/segmentation/{volume}_labels.tif",
            cell_probability="<results>/segmentation/{volume}_cell_probability.tif",
        log:
            "<logs>/join_labels/{volume}.log",
        benchmark:
            "<benchmarks>/join_labels/{volume}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            shape=lambda wildcards: SHAPES[wildcards.volume],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
        script:
            "../scripts/join_labels.py"
