"""Choose the score threshold of a detector."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import choose_score

    run(
        choose_score,
        [*map(Path, snakemake.input.datasets)],
        [*map(Path, snakemake.input.detections)],
        Path(snakemake.output[0]),
        **snakemake.params.detection,
    )
