from pipeline_lib.runtime.log import stage

processes = max(snakemake.resources.gpu, 1)  # one for each GPU
with stage(snakemake.log[0], max(snakemake.threads // processes, 1)) as run:
    from pipeline_lib.runtime.processes import launch
    from pipeline_lib.stages.training import train

    arguments = {
        "train": [*snakemake.input.train],
        "train_weight_maps": [*snakemake.input.train_weight_maps],
        "validation": [*snakemake.input.validation],
        "validation_weight_maps": [*snakemake.input.validation_weight_maps],
        "statistics": snakemake.input.statistics,
        "model": snakemake.output.model,
        "history": snakemake.output.history,
        "network": snakemake.params.network,
        "training": snakemake.params.training,
        "augmentation": snakemake.params.augmentation,
        "seed": snakemake.params.seed,
        "threads": snakemake.threads,
    }
    if processes > 1:
        device = snakemake.params.training["device"]
        run(launch, "pipeline_lib.stages.training", processes, device, snakemake.log[0], **arguments)
    else:
        run(train, **arguments)
