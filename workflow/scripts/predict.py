from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.prediction import predict

    run(
        predict,
        Path(snakemake.input.dataset),
        Path(snakemake.input.model),
        Path(snakemake.output.prediction),
        threads=snakemake.threads,
        **snakemake.params.prediction,
    )
