from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from itertools import product

    from pipeline_lib.stages.baselines import predict

    pairs = product(snakemake.params.networks, snakemake.input.datasets)
    for (network, dataset), output in zip(pairs, snakemake.output, strict=True):
        run(
            predict,
            Path(dataset),
            Path(snakemake.input.statistics),
            Path(output),
            network=network,
            block=snakemake.config["block"],
        )
