# From raw images and annotations to datasets (HDF5), statistics of the training volumes and weight maps.


rule dataset:
    input:
        expand("<results>/dataset/{volume}.h5", volume=VOLUMES),


rule draw_volume:
    output:
        images="<results>/drawn/images.tif",
        annotation="<results>/drawn/labels.tif",
    log:
        "<logs>/draw_volume.log",
    benchmark:
        "<benchmarks>/draw_volume.tsv"
    group:
        PREPARE
    conda:
        "../../environment.yml"
    params:
        drawing=config.get("drawing"),
        seed=config["seed"],
    script:
        "../scripts/draw_volume.py"


for batch in batches_of("build_dataset", train=LEARNED, test=TEST, new=PREDICT):

    rule:
        name:
            batch.rule_name
        input:
            [file for name in batch.volumes for file in source_files(name)],
        output:
            expand("<results>/{{dataset}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/build_{{dataset}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/build_{{dataset}}/{batch.name}.tsv"
        group:
            PREPARE
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                images={name: VOLUMES[name].images for name in batch.volumes},
                annotation={name: VOLUMES[name].annotation for name in batch.volumes},
                ignore_mask={name: VOLUMES[name].ignore_mask for name in batch.volumes},
                sections={name: VOLUMES[name].sections for name in batch.volumes},
                rows={name: VOLUMES[name].rows for name in batch.volumes},
                output="<results>/{dataset}/{volume}.h5",
            ),
            datasets=lambda wildcards, volumes=batch.volumes: [
                dataset_of(model_of(wildcards).settings, name) for name in volumes
            ],
        script:
            "../scripts/build_dataset.py"


rule measure_statistics:
    input:
        datasets=of_model("<results>/{dataset}/{volume}.h5", "train"),
        # `ancient`: the training waits for the check, but a new volume to predict does not repeat it
        check=ancient("<results>/check_passed.json"),
    output:
        statistics="<results>/{statistics}.json",
    log:
        "<logs>/measure_{statistics}.log",
    benchmark:
        "<benchmarks>/measure_{statistics}.tsv"
    group:
        PREPARE
    conda:
        "../../environment.yml"
    resources:
        mem_mb=MEMORY_MB,
    params:
        normalisation=setting("normalisation"),
    script:
        "../scripts/measure_statistics.py"


for batch in batches_of("build_weight_map", train=LEARNED, test=SHOWN_TEST):

    rule:
        name:
            batch.rule_name
        input:
            datasets=of_model("<results>/{dataset}/{volume}.h5", batch.volumes),
            statistics=of_model("<results>/{statistics}.json"),
        output:
            expand("<results>/{{weight_map}}/{volume}.h5", volume=batch.volumes),
        log:
            f"<logs>/build_{{weight_map}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/build_{{weight_map}}/{batch.name}.tsv"
        group:
            DERIVE
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=each(
                batch.volumes,
                dataset="<results>/{dataset}/{volume}.h5",
                output="<results>/{weight_map}/{volume}.h5",
            ),
            weight_map=setting("weight_map"),
        script:
            "../scripts/build_weight_map.py"
