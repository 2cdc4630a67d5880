from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.training import train

    train(
        snakemake.input.train,
        snakemake.input.train_weight_maps,
        snakemake.input.validation,
        snakemake.input.validation_weight_maps,
        snakemake.input.statistics,
        snakemake.output.model,
        snakemake.output.history,
        network=snakemake.params.network,
        training=snakemake.params.training,
        augmentation=snakemake.params.augmentation,
        seed=snakemake.params.seed,
        threads=snakemake.threads,
    )
