"""Train one model."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads, snakemake.resources.gpu) as run:
    from pipeline_lib.stages.training import train_on

    run(
        train_on,
        snakemake.resources.gpu,
        Path(snakemake.log[0]),
        train=[*snakemake.input.train],
        train_weight_maps=[*snakemake.input.train_weight_maps],
        validation=[*snakemake.input.validation],
        validation_weight_maps=[*snakemake.input.validation_weight_maps],
        statistics=snakemake.input.statistics,
        model=snakemake.output.model,
        history=snakemake.output.history,
        network=snakemake.params.network,
        training=snakemake.params.training,
        augmentation=snakemake.params.augmentation,
        seed=snakemake.params.seed,
        start=snakemake.input.start or None,
        boxes=snakemake.input.boxes or None,
        threads=snakemake.threads,
    )
