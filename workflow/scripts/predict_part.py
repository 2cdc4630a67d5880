"""Predict one part of a volume with a trained model."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.prediction import predict

    run(
        predict,
        Path(snakemake.input.dataset),
        Path(snakemake.input.model),
        Path(snakemake.output.prediction),
        part=snakemake.params.part,
        jobs=snakemake.params.jobs,
        memory_gb=snakemake.config["memory_gb"],
        threads=snakemake.threads,
        **snakemake.params.prediction,
    )
