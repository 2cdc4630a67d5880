# With a detector: from the boxes of training objects to default boxes, and from the boxes that the network
# predicts to detections, their masks, tables and scores.


rule detect:
    input:
        "<results>/detections.csv" if DETECTED else [],
        files_of_models("<results>/detection/{model}/{volume}.h5", [m for m in FURTHER if m in DETECTORS]),


rule choose_boxes:
    input:
        datasets=of_model("<results>/{dataset}/{volume}.h5", "train"),
        check=ancient("<results>/check_passed.json"),
    output:
        boxes="<results>/{boxes}.json",
    log:
        "<logs>/choose_{boxes}.log",
    benchmark:
        "<benchmarks>/choose_{boxes}.tsv"
    group:
        PREPARE
    conda:
        "../../environment.yml"
    resources:
        mem_mb=MEMORY_MB,
    params:
        network=setting("network"),
    script:
        "../scripts/choose_boxes.py"


def one_per_section(wildcards):
    """Return whether only the surest box of each section is a detection."""
    return setting("detection")(wildcards)["one_per_section"]


LOCATED = found_by(DETECTORS)

for batch in batches_of("detect", SCATTERED, **{group: names for group, (names, _) in LOCATED.items()}):

    rule:
        name:
            batch.rule_name
        input:
            predictions=expand("<results>/prediction/{{model}}/{volume}.h5", volume=batch.volumes),
        output:
            expand("<results>/detection/{{model}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/detect/{{model}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/detect/{{model}}/{batch.name}.tsv"
        wildcard_constraints:
            model=one_of(LOCATED[batch.group][1]),
        group:
            DETECT
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                prediction="<results>/prediction/{model}/{volume}.h5",
                output="<results>/detection/{model}/{volume}.h5",
                shape=lambda name, model: SHAPES[name],
            ),
            one_per_section=one_per_section,
        script:
            "../scripts/detect.py"


if SCATTERED:

    # Boxes of all parts are compared, so that the border between two parts does not show.
    rule detect_in_parts:
        input:
            parts=part_files("<results>/prediction/{model}/parts/{volume}/{part}.h5"),
        output:
            detections="<results>/detection/{model}/{volume}.h5",
        log:
            "<logs>/detect_in_parts/{model}/{volume}.log",
        benchmark:
            "<benchmarks>/detect_in_parts/{model}/{volume}.tsv"
        wildcard_constraints:
            model=one_of(DETECTORS),
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            shape=lambda wildcards: SHAPES[wildcards.volume],
            jobs=lambda wildcards: jobs_of(wildcards.volume),
            one_per_section=one_per_section,
        script:
            "../scripts/detect_in_parts.py"


MASKED_IN = found_by(MASKED)

# A volume is not shared by several jobs here, because only the surroundings of detections are computed.
for batch in batches_of("predict_masks", **{group: names for group, (names, _) in MASKED_IN.items()}):

    rule:
        name:
            batch.rule_name
        input:
            datasets=of_model("<results>/{dataset}/{volume}.h5", batch.volumes),
            model=MODEL_FILE or "<results>/models/{model}/model.pt",
            detections=expand("<results>/detection/{{model}}/{volume}.h5", volume=batch.volumes),
            postprocessing="<results>/postprocessing/{model}.json",
        output:
            expand("<results>/segmentation/{{model}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/predict_masks/{{model}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/predict_masks/{{model}}/{batch.name}.tsv"
        wildcard_constraints:
            model=one_of(MASKED_IN[batch.group][1]),
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            gpu=gpu_slots("prediction"),
            mem_mb=MEMORY_MB,
            runtime=growing(120),
        params:
            volumes=each(
                batch.volumes,
                dataset="<results>/{dataset}/{volume}.h5",
                detections="<results>/detection/{model}/{volume}.h5",
                postprocessing="<results>/postprocessing/{model}.json",
                output="<results>/segmentation/{model}/{volume}.h5",
            ),
            prediction=setting("prediction"),
        script:
            "../scripts/predict_masks.py"


for batch in batches_of("export_detections", held_out=EVALUATED, new=PREDICT) if DETECTED else ():

    rule:
        name:
            batch.rule_name
        input:
            detections=expand("<results>/detection/{model}/{volume}.h5", model=MODEL, volume=batch.volumes),
            postprocessing=f"<results>/postprocessing/{MODEL}.json",
        output:
            expand([*EXPORTS.values()], volume=batch.volumes),
        log:
            f"<logs>/export_detections/{batch.name}.log",
        benchmark:
            f"<benchmarks>/export_detections/{batch.name}.tsv"
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
                detections="<results>/detection/{model}/{volume}.h5",
                postprocessing="<results>/postprocessing/{model}.json",
                **EXPORTS,
                volume="{volume}",
                shape=lambda name, model: SHAPES[name],
            ),
        script:
            "../scripts/export_detections.py"


if DETECTED:

    rule collect_detections:
        input:
            tables=expand(EXPORTS["table"], volume=DETECTED),
            counts=expand(EXPORTS["counts"], volume=DETECTED),
        output:
            detections="<results>/detections.csv",
            counts="<results>/counts.csv",
        log:
            "<logs>/collect_detections.log",
        benchmark:
            "<benchmarks>/collect_detections.tsv"
        localrule: True
        conda:
            "../../environment.yml"
        script:
            "../scripts/collect_detections.py"


if not MODEL_FILE:

    rule choose_score:
        input:
            datasets=of_model("<results>/{dataset}/{volume}.h5", "validation"),
            detections=of_model("<results>/detection/{model}/{volume}.h5", "validation"),
        output:
            "<results>/postprocessing/{model}.json",
        log:
            "<logs>/choose_score/{model}.log",
        benchmark:
            "<benchmarks>/choose_score/{model}.tsv"
        wildcard_constraints:
            model=one_of(DETECTORS),
        group:
            DETECT
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            detection=setting("detection"),
        script:
            "../scripts/choose_score.py"

    def labels_of_masks(names):
        """Return an input function: the labels of volumes, if the model has masks."""
        return lambda wildcards: (
            paths("<results>/segmentation/{model}/{volume}.h5", model=wildcards.model, volume=names)
            if wildcards.model in MASKED
            else []
        )

    COUNTED = scored_by(DETECTORS)
    for batch in batches_of(
        "evaluate_detections", **{group: names for group, (names, _) in COUNTED.items()}
    ):

        rule:
            name:
                batch.rule_name
            input:
                datasets=of_model("<results>/{dataset}/{volume}.h5", batch.volumes),
                detections=expand("<results>/detection/{{model}}/{volume}.h5", volume=batch.volumes),
                segmentations=labels_of_masks(batch.volumes),
                postprocessing="<results>/postprocessing/{model}.json",
            output:
                expand("<results>/scores/{{model}}/{volume}.csv", volume=batch.volumes),
                expand("<results>/scores/{{model}}/sections/{volume}.csv", volume=batch.volumes),
            log:
                f"<logs>/evaluate_detections/{{model}}/{batch.name}.log",
            benchmark:
                f"<benchmarks>/evaluate_detections/{{model}}/{batch.name}.tsv"
            wildcard_constraints:
                model=one_of(COUNTED[batch.group][1]),
            group:
                FINISH
            conda:
                "../../environment.yml"
            resources:
                mem_mb=MEMORY_MB,
            params:
                volumes=evaluations(
                    batch.volumes,
                    dataset="<results>/{dataset}/{volume}.h5",
                    detections="<results>/detection/{model}/{volume}.h5",
                    segmentation=lambda name, model: (
                        Path(config["results"], "segmentation", model, f"{name}.h5")
                        if model in MASKED
                        else None
                    ),
                ),
            script:
                "../scripts/evaluate_detections.py"
