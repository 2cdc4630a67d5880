# From training and validation volumes to models.


rule train:
    input:
        expand("<results>/models/{model}/model.pt", model=TRAINED),


rule train_model:
    input:
        train=expand("<results>/dataset/{volume}.h5", volume=TRAIN),
        train_weight_maps=expand("<results>/weight_map/{volume}.h5", volume=TRAIN),
        validation=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
        validation_weight_maps=expand("<results>/weight_map/{volume}.h5", volume=VALIDATION),
        statistics="<results>/statistics.json",
        start=lambda wildcards: starts.start_file(wildcards.model, config, TRAINED, find_beside) or [],
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
        network=config["network"],
        training=lambda wildcards: starts.training_of(wildcards.model, config),
        augmentation=config["augmentation"],
        seed=lambda wildcards: TRAINED[wildcards.model],
    script:
        "../scripts/train.py"
