from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.errors import draw_errors

    run(
        draw_errors,
        Path(snakemake.input.dataset),
        Path(snakemake.input.prediction),
        Path(snakemake.input.threshold),
        Path(snakemake.output.errors),
        volume=snakemake.wildcards.volume,
    )
