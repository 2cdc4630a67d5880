"""Write the weight maps of a batch of volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.dataset import build_weight_map

    for volume in snakemake.params.volumes:
        run(
            build_weight_map,
            statistics=Path(snakemake.input.statistics),
            block=snakemake.config["block"],
            **volume,
            **snakemake.params.weight_map,
        )
