"""Draw images and labels that replace real data."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.synthesis import draw_volume

    run(
        draw_volume,
        Path(snakemake.output.images),
        Path(snakemake.output.annotation),
        seed=snakemake.params.seed,
        **snakemake.params.drawing,
    )
