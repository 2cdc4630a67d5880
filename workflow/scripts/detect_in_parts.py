"""Remove overlapping boxes in a volume that several jobs predicted."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import detect

    run(
        detect,
        [*map(Path, snakemake.input.parts)],
        Path(snakemake.output.detections),
        shape=snakemake.params.shape,
        jobs=snakemake.params.jobs,
        one_per_section=snakemake.params.one_per_section,
    )
