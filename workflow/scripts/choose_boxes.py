"""Choose the default boxes of a detector."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.boxes import choose_boxes

    run(
        choose_boxes,
        [*map(Path, snakemake.input.datasets)],
        Path(snakemake.output.boxes),
        network=snakemake.params.network,
    )
