"""Predict a batch of volumes with the baselines."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.baselines import predict

    for volume in snakemake.params.volumes:
        run(
            predict,
            statistics=Path(snakemake.input.statistics),
            block=snakemake.config["block"],
            **volume,
        )
