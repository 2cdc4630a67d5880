from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.baselines import predict

    run(
        predict,
        Path(snakemake.input.dataset),
        Path(snakemake.input.statistics),
        Path(snakemake.output.prediction),
        network=snakemake.wildcards.network,
    )
