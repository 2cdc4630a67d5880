"""Measure the speed of a variant of a study."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads, snakemake.resources.gpu) as run:
    from pipeline_lib.stages.speed import measure

    run(
        measure,
        Path(snakemake.output.speed),
        network=snakemake.params.network,
        training=snakemake.params.training,
        augmentation=snakemake.params.augmentation,
        channels=snakemake.params.channels,
        classes=snakemake.params.classes,
        cells=snakemake.params.cells,
        minutes=snakemake.params.minutes,
        threads=snakemake.threads,
    )
