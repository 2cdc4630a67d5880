# With `model: PATH` in the config: cells in new images are found with a trained model. Nothing is trained.


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
        tables=expand(TABLE_OF_CELLS, volume=FOUND),
    output:
        summary=SUMMARY,
    log:
        "<logs>/summarise.log",
    benchmark:
        "<benchmarks>/summarise.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        images={name: VOLUMES[name].images for name in FOUND},
    script:
        "../scripts/summarise.py"
