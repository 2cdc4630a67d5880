from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.segmentation import choose_threshold

    run(
        choose_threshold,
        [*map(Path, snakemake.input.datasets)],
        [*map(Path, snakemake.input.predictions)],
        Path(snakemake.output.threshold),
        **snakemake.params.segmentation,
    )
