# From cell probabilities and post-processing to instances: HDF5 for scores and pictures, TIFF for Fiji and
# napari. Instances of a detector with masks are made in detect.smk.


rule segment:
    input:
        expand("<results>/segmentation/{volume}_labels.tif", volume=SEGMENTED),
        expand("<results>/segmentation/{volume}_cells.csv", volume=SEGMENTED),
        files_of_models(
            "<results>/segmentation/{model}/{volume}.h5",
            [model for model in FURTHER if model in LABELLED] + BASELINES,
        ),


SEGMENTED_BY = found_by(SEGMENTERS)

for batch in batches_of(
    "segment", LABELLED_IN_PARTS, **{group: names for group, (names, _) in SEGMENTED_BY.items()}
):

    rule:
        name:
            batch.rule_name
        input:
            predictions=expand("<results>/prediction/{{model}}/{volume}.h5", volume=batch.volumes),
            postprocessing="<results>/postprocessing/{model}.json",
        output:
            expand("<results>/segmentation/{{model}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/segment/{{model}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/segment/{{model}}/{batch.name}.tsv"
        wildcard_constraints:
            model=one_of(SEGMENTED_BY[batch.group][1]),
        group:
            FINISH
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=segmentations(batch.volumes),
        script:
            "../scripts/segment.py"


for batch in batches_of("write_tiffs", SCATTERED, held_out=EVALUATED, new=PREDICT) if SEGMENTED else ():

    rule:
        name:
            batch.rule_name
        input:
            segmentations=expand(
                "<results>/segmentation/{model}/{volume}.h5", model=MODEL, volume=batch.volumes
            ),
            predictions=expand(PREDICTION_OF_LABELS or [], model=MODEL, volume=batch.volumes),
        output:
            expand(
                ["<results>/segmentation/{volume}_labels.tif", *PROBABILITIES.values()], volume=batch.volumes
            ),
        log:
            f"<logs>/write_tiffs/{batch.name}.log",
        benchmark:
            f"<benchmarks>/write_tiffs/{batch.name}.tsv"
        group:
            FINISH
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=tiffs(batch.volumes),
        script:
            "../scripts/write_tiffs.py"


for batch in batches_of("measure_cells", held_out=EVALUATED, new=PREDICT) if SEGMENTED else ():

    rule:
        name:
            batch.rule_name
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=batch.volumes),
            predictions=expand(PREDICTION_OF_LABELS or [], model=MODEL, volume=batch.volumes),
            segmentations=expand(
                "<results>/segmentation/{model}/{volume}.h5", model=MODEL, volume=batch.volumes
            ),
        output:
            expand("<results>/segmentation/{volume}_cells.csv", volume=batch.volumes),
        log:
            f"<logs>/measure_cells/{batch.name}.log",
        benchmark:
            f"<benchmarks>/measure_cells/{batch.name}.tsv"
        group:
            FINISH
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                [MODEL],
                dataset="<results>/dataset/{volume}.h5",
                prediction=PREDICTION_OF_LABELS,
                segmentation="<results>/segmentation/{model}/{volume}.h5",
                output="<results>/segmentation/{volume}_cells.csv",
            ),
        script:
            "../scripts/measure_cells.py"


for batch in batches_of(
    "write_disagreement",
    held_out=[name for name in EVALUATED if name in AVERAGED],
    new=[name for name in PREDICT if name in AVERAGED],
):

    rule:
        name:
            batch.rule_name
        input:
            expand("<results>/prediction/{model}/{volume}.h5", model=MODEL, volume=batch.volumes),
        output:
            expand("<results>/segmentation/{volume}_disagreement.tif", volume=batch.volumes),
        log:
            f"<logs>/write_disagreement/{batch.name}.log",
        benchmark:
            f"<benchmarks>/write_disagreement/{batch.name}.tsv"
        group:
            FINISH
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                [MODEL],
                prediction="<results>/prediction/{model}/{volume}.h5",
                output="<results>/segmentation/{volume}_disagreement.tif",
            ),
        script:
            "../scripts/write_disagreement.py"


if LABELLED_IN_PARTS:

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
            postprocessing="<results>/postprocessing/{model}.json",
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
        script:
            "../scripts/number_parts.py"

    rule relabel_part:
        input:
            pieces="<results>/segmentation/{model}/parts/{volume}/{part}_pieces.h5",
            numbers="<results>/segmentation/{model}/parts/{volume}/numbers.h5",
        output:
            segmentation="<results>/segmentation/{model}/parts/{volume}/{part}.h5",
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
            parts=part_files("<results>/segmentation/{model}/parts/{volume}/{part}.h5"),
        output:
            segmentation="<results>/segmentation/{model}/{volume}.h5",
        log:
            "<logs>/join_labels/{model}/{volume}.log",
        benchmark:
            "<benchmarks>/join_labels/{model}/{volume}.tsv"
        wildcard_constraints:
            model=one_of(SEGMENTERS),
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            shape=lambda wildcards: SHAPES[wildcards.volume],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
        script:
            "../scripts/join_labels.py"


if SCATTERED:

    rule write_joined_tiffs:
        input:
            segmentation=f"<results>/segmentation/{MODEL}/{{volume}}.h5",
            prediction=[] if MAIN.detects else f"<results>/prediction/{MODEL}/{{volume}}.h5",
        output:
            ["<results>/segmentation/{volume}_labels.tif", *PROBABILITIES.values()],
        log:
            "<logs>/write_joined_tiffs/{volume}.log",
        benchmark:
            "<benchmarks>/write_joined_tiffs/{volume}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=tiffs(),
        script:
            "../scripts/write_tiffs.py"
