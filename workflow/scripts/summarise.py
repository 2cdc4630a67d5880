"""Write a table of all segmented volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.measurement import summarise

    run(
        summarise,
        [*map(Path, snakemake.input.tables)],
        Path(snakemake.output.summary),
        images=snakemake.params.images,
    )
