# With `study:` in the config: what each variant costs, and the page that compares the variants.


# The times of this file are measured once. A training depends on the file, so that it can be repeated.
rule measure_speed:
    output:
        speed="<results>/speed/{variant}.json",
    log:
        "<logs>/measure_speed/{variant}.log",
    benchmark:
        "<benchmarks>/measure_speed/{variant}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        gpu=gpu_slots("training"),
        mem_mb=MEMORY_MB,
    params:
        network=setting("network"),
        training=lambda wildcards: {
            key: value
            for key, value in starts.training_of(model_of(wildcards), MODELS).items()
            if key not in ("iterations", "validation_interval", "start_from", "keep_normalisation")
        },
        augmentation=setting("augmentation"),
        channels=imageio.number_of(CHANNELS),
        classes=lambda wildcards: [*model_of(wildcards).classes.names],
        cells=lambda wildcards: [*model_of(wildcards).classes.cells],
        minutes=config["study"].get("minutes"),
    script:
        "../scripts/measure_speed.py"
