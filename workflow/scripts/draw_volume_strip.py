from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.volume import draw_volume_strip

    run(
        draw_volume_strip,
        Path(snakemake.input.dataset),
        Path(snakemake.input.weight_map) if snakemake.input.weight_map else None,
        Path(snakemake.input.prediction),
        Path(snakemake.input.threshold),
        Path(snakemake.output.strip),
        volume=snakemake.wildcards.volume,
        split=snakemake.params.split,
        minimum_size=snakemake.params.minimum_size,
    )
