# With `model: PATH` in the config: new images are segmented with a trained model. Nothing is trained.


# Threshold and post-processing that were chosen on the validation volumes of the training.
rule unpack_model:
    input:
        model=MODEL_FILE,
    output:
        postprocessing=f"<results>/postprocessing/{MODEL}.json",
    log:
        "<logs>/unpack_model.log",
    benchmark:
        "<benchmarks>/unpack_model.tsv"
    group:
        PREPARE
    localrule: True
    conda:
        "../../environment.yml"
    script:
        "../scripts/unpack_model.py"


rule summarise:
    input:
        tables=expand("<results>/segmentation/{volume}_cells.csv", volume=SEGMENTED),
    output:
        summary="<results>/segmentation/summary.csv",
    log:
        "<logs>/summarise.log",
    benchmark:
        "<benchmarks>/summarise.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        images={name: VOLUMES[name].images for name in SEGMENTED},
    script:
        "../scripts/summarise.py"
