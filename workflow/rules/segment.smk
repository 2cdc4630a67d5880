# cell probability and threshold -> instances, for Fiji and napari


rule segment:
    input:
        expand("<results>/segmentation/{volume}_labels.tif", volume=SEGMENTED),


for batch in batches_of("segment", held_out=whole(EVALUATED), new=whole(PREDICT)):

    rule:
        name:
            batch.rule_name
        input:
            predictions=expand("<results>/prediction/{model}/{volume}.h5", model=MODEL, volume=batch.volumes),
            postprocessing=f"<results>/postprocessing/{MODEL}.json",
        output:
            labels=expand("<results>/segmentation/{volume}_labels.tif", volume=batch.volumes),
            cell_probabilities=expand(
                "<results>/segmentation/{volume}_cell_probability.tif", volume=batch.volumes
            ),
        log:
            f"<logs>/segment/{batch.name}.log",
        benchmark:
            f"<benchmarks>/segment/{batch.name}.tsv"
        group:
            FINISH
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                models=[MODEL],
                prediction="<results>/prediction/{model}/{volume}.h5",
                labels="<results>/segmentation/{volume}_labels.tif",
                cell_probability="<results>/segmentation/{volume}_cell_probability.tif",
            ),
            minimum_size=config["segmentation"]["minimum_size"],
        script:
            "../scripts/segment.py"


if SCATTERED:

    rule label_part:
        input:
            prediction="<results>/prediction/{model}/parts/{volume}/{part}.h5",
            postprocessing="<results>/postprocessing/{model}.json",
        output:
            pieces=temp("<results>/segmentation/{model}/parts/{volume}/{part}_pieces.h5"),
        log:
            "<logs>/label_part/{model}/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/label_part/{model}/{volume}/{part}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        script:
            "../scripts/label_part.py"

    rule number_parts:
        input:
            pieces=part_files("<results>/segmentation/{model}/parts/{volume}/{part}_pieces.h5"),
        output:
            numbers=temp("<results>/segmentation/{model}/parts/{volume}/numbers.h5"),
        log:
            "<logs>/number_parts/{model}/{volume}.log",
        benchmark:
            "<benchmarks>/number_parts/{model}/{volume}.tsv"
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
            pieces="<results>/segmentation/{model}/parts/{volume}/{part}_pieces.h5",
            numbers="<results>/segmentation/{model}/parts/{volume}/numbers.h5",
        output:
            labels="<results>/segmentation/{model}/parts/{volume}/{part}.h5",
        log:
            "<logs>/relabel_part/{model}/{volume}/{part}.log",
        benchmark:
            "<benchmarks>/relabel_part/{model}/{volume}/{part}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        script:
            "../scripts/relabel_part.py"

    rule join_labels:
        input:
            parts=part_files(f"<results>/segmentation/{MODEL}/parts/{{volume}}/{{part}}.h5"),
            prediction=f"<results>/prediction/{MODEL}/{{volume}}.h5",
        output:
            joined=f"<results>/segmentation/{MODEL}/{{volume}}.h5",
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
