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
        runtime=growing(720, 1440),  # min; one that is ended for its time resumes
    params:
        network=config["network"],
        training=config["training"],
        augmentation=config["augmentation"],
        seed=config["seed"],
    script:
        "../scripts/train.py"


if RETRAINED_NETWORKS:

    use rule train as train_seed with:
        output:
            model="<results>/model/seed{seed}/model.pt",
            history="<results>/model/seed{seed}/history.csv",
        log:
            "<logs>/train/seed{seed}.log",
        benchmark:
            "<benchmarks>/train/seed{seed}.tsv"
        params:
            seed=lambda wildcards: int(wildcards.seed),
