from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from itertools import product

    from pipeline_lib.stages.evaluation import evaluate

    volumes = zip(snakemake.params.volumes.items(), snakemake.input.datasets, strict=True)
    files = zip(snakemake.input.predictions, snakemake.output, strict=True)
    for threshold, ((volume, split), dataset) in product(snakemake.input.thresholds, volumes):
        prediction, output = next(files)
        run(
            evaluate,
            Path(dataset),
            Path(prediction),
            Path(threshold),
            Path(output),
            volume=volume,
            split=split,
            network=Path(threshold).stem,
            minimum_size=snakemake.params.minimum_size,
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
        )
