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


for batch, names in batches_of(TRAIN + VALIDATION, TEST, PREDICT):

    rule:
        name:
            f"build_dataset_{batch}"
        input:
            [file for name in names for file in source_files(name)],
        output:
            expand("<results>/dataset/{volume}.h5", volume=names),
        log:
            f"<logs>/build_dataset/{batch}.log",
        benchmark:
            f"<benchmarks>/build_dataset/{batch}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=[VOLUMES[name].source() for name in names],
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
    resources:
        mem_mb=MEMORY_MB,
    params:
        normalisation=config["normalisation"],
    script:
        "../scripts/measure_statistics.py"


for batch, names in batches_of(TRAIN + VALIDATION, SHOWN_TEST):

    rule:
        name:
            f"build_weight_map_{batch}"
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=names),
            statistics="<results>/statistics.json",
        output:
            expand("<results>/weight_map/{volume}.h5", volume=names),
        log:
            f"<logs>/build_weight_map/{batch}.log",
        benchmark:
            f"<benchmarks>/build_weight_map/{batch}.tsv"
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            weight_map=config["weight_map"],
        script:
            "../scripts/build_weight_map.py"
