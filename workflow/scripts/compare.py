"""Compare the variants of a study."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.comparison import Contents, write_comparison

    run(
        write_comparison,
        Contents.of(snakemake.params.contents),
        Path(snakemake.output.page),
        Path(snakemake.output.table),
    )
