from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.evaluation import evaluate

    run(
        evaluate,
        Path(snakemake.input.dataset),
        Path(snakemake.input.prediction),
        Path(snakemake.input.threshold),
        Path(snakemake.output.scores),
        volume=snakemake.wildcards.volume,
        split=snakemake.params.split,
        network=snakemake.wildcards.network,
        minimum_size=snakemake.params.minimum_size,
        threads=snakemake.threads,
    )
