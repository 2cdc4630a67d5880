from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.training import train

    run(
        train,
        [*map(Path, snakemake.input.train)],
        [*map(Path, snakemake.input.train_weight_maps)],
        [*map(Path, snakemake.input.validation)],
        [*map(Path, snakemake.input.validation_weight_maps)],
        Path(snakemake.input.statistics),
        Path(snakemake.output.model),
        Path(snakemake.output.history),
        network=snakemake.params.network,
        training=snakemake.params.training,
        augmentation=snakemake.params.augmentation,
        seed=snakemake.params.seed,
        threads=snakemake.threads,
    )
