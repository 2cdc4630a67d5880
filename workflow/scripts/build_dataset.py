from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.dataset import build_dataset

    run(
        build_dataset,
        snakemake.params.images,
        snakemake.params.annotation,
        Path(snakemake.output.dataset),
        sections=snakemake.params.sections,
        **snakemake.params.dataset,
    )
