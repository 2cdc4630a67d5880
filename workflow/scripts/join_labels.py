"""Join the labels of all parts of a volume."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.joining import join_labels

    run(
        join_labels,
        [*map(Path, snakemake.input.parts)],
        Path(snakemake.output.segmentation),
        shape=snakemake.params.shape,
        jobs=snakemake.params.jobs,
    )
