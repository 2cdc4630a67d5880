from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.prediction import predict_baseline

    predict_baseline(
        Path(snakemake.input.dataset),
        Path(snakemake.input.statistics),
        Path(snakemake.output.prediction),
        network=snakemake.wildcards.network,
    )
