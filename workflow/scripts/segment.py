from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.segmentation import segment

    run(
        segment,
        Path(snakemake.input.prediction),
        Path(snakemake.input.threshold),
        Path(snakemake.output.labels),
        Path(snakemake.output.cell_probability),
        minimum_size=snakemake.params.minimum_size,
    )
