"""Measure class frequencies and normalisation on the training volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.dataset import measure_statistics

    run(
        measure_statistics,
        [*map(Path, snakemake.input.datasets)],
        Path(snakemake.output.statistics),
        normalisation_kind=snakemake.params.normalisation,
        memory_gb=snakemake.config["memory_gb"],
    )
