from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.figures.errors import draw_errors

    draw_errors(
        Path(snakemake.input.dataset),
        Path(snakemake.input.prediction),
        Path(snakemake.input.threshold),
        Path(snakemake.output.errors),
        volume=snakemake.wildcards.volume,
    )
