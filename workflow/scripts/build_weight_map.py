from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.dataset import build_weight_map

    run(
        build_weight_map,
        Path(snakemake.input.dataset),
        Path(snakemake.input.statistics),
        Path(snakemake.output.weight_map),
        **snakemake.params.weight_map,
    )
