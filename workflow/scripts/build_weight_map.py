from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.dataset import build_weight_map

    for dataset, output in zip(snakemake.input.datasets, snakemake.output, strict=True):
        run(
            build_weight_map,
            Path(dataset),
            Path(snakemake.input.statistics),
            Path(output),
            block=snakemake.config["block"],
            **snakemake.params.weight_map,
        )
