# training and validation volumes -> model


rule train:
    input:
        train=expand("<results>/dataset/{volume}.h5", volume=TRAIN),
        train_weight_maps=expand("<results>/weight_map/{volume}.h5", volume=TRAIN),
        validation=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
        validation_weight_maps=expand("<results>/weight_map/{volume}.h5", volume=VALIDATION),
        statistics="<results>/statistics.json",
    output:
        model="<results>/model/model.pt",
        history="<results>/model/history.csv",
    log:
        "<logs>/train.log",
    benchmark:
        "<benchmarks>/train.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        gpu=gpu_slots("training"),
        mem_mb=MEMORY_MB,
        runtime="24h",
    params:
        network=config["network"],
        training=config["training"],
        augmentation=config["augmentation"],
        seed=config["seed"],
    script:
        "../scripts/train.py"
