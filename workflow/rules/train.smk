# From training and validation volumes to models.


rule train:
    input:
        expand("<results>/models/{model}/model.pt", model=TRAINED),


rule train_model:
    input:
        train=of_model("<results>/{dataset}/{volume}.h5", "train"),
        train_weight_maps=of_model("<results>/{weight_map}/{volume}.h5", "train"),
        validation=of_model("<results>/{dataset}/{volume}.h5", "validation"),
        validation_weight_maps=of_model("<results>/{weight_map}/{volume}.h5", "validation"),
        statistics=of_model("<results>/{statistics}.json"),
        boxes=lambda wildcards: (
            of_model("<results>/{boxes}.json")(wildcards) if model_of(wildcards).detects else []
        ),
        start=lambda wildcards: starts.start_file(model_of(wildcards), TRAINED, find_beside) or [],
        speed=of_model("<results>/speed/{speed}.json", [None]) if TIMED else [],
    output:
        model="<results>/models/{model}/model.pt",
        history="<results>/models/{model}/history.csv",
    log:
        "<logs>/train/{model}.log",
    benchmark:
        "<benchmarks>/train/{model}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        gpu=gpu_slots("training"),
        mem_mb=MEMORY_MB,
        runtime=growing(720, 1440),  # min; a training that reaches its time limit is resumed
    params:
        **unscheduled(),
        network=setting("network"),
        training=schedule(),
        augmentation=setting("augmentation"),
        seed=lambda wildcards: model_of(wildcards).seed,
    script:
        "../scripts/train.py"
