# raw images and annotations -> dataset (HDF5), statistics of the training volumes, weight maps


rule draw_volume:
    output:
        images="<results>/drawn/images.tif",
        annotation="<results>/drawn/labels.tif",
    log:
        "<logs>/draw_volume.log",
    benchmark:
        "<benchmarks>/draw_volume.tsv"
    conda:
        "../../environment.yml"
    params:
        drawing=config.get("drawing"),
        seed=config["seed"],
    script:
        "../scripts/draw_volume.py"


rule build_dataset:
    input:
        unpack(source_files),
    output:
        dataset="<results>/dataset/{volume}.h5",
    log:
        "<logs>/build_dataset/{volume}.log",
    benchmark:
        "<benchmarks>/build_dataset/{volume}.tsv"
    conda:
        "../../environment.yml"
    params:
        images=lambda wildcards: VOLUMES[wildcards.volume].images,
        annotation=lambda wildcards: VOLUMES[wildcards.volume].annotation,
        sections=lambda wildcards: VOLUMES[wildcards.volume].sections,
        dataset=config["dataset"],
    script:
        "../scripts/build_dataset.py"


rule measure_statistics:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=TRAIN),
    output:
        statistics="<results>/statistics.json",
    log:
        "<logs>/measure_statistics.log",
    benchmark:
        "<benchmarks>/measure_statistics.tsv"
    conda:
        "../../environment.yml"
    params:
        normalisation=config["normalisation"],
    script:
        "../scripts/measure_statistics.py"


rule build_weight_map:
    input:
        dataset="<results>/dataset/{volume}.h5",
        statistics="<results>/statistics.json",
    output:
        weight_map="<results>/weight_map/{volume}.h5",
    log:
        "<logs>/build_weight_map/{volume}.log",
    benchmark:
        "<benchmarks>/build_weight_map/{volume}.tsv"
    conda:
        "../../environment.yml"
    params:
        weight_map=config["weight_map"],
    script:
        "../scripts/build_weight_map.py"
