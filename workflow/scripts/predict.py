"""Predict a batch of volumes with a trained model."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.prediction import predict

    for volume in snakemake.params.volumes:
        run(
            predict,
            model=Path(snakemake.input.model),
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **volume,
            **snakemake.params.prediction,
        )
