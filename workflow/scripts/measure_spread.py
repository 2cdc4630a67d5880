"""Measure the spread of the scores over the seeds."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.evaluation import measure_spread

    run(
        measure_spread,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.postprocessing)],
        Path(snakemake.output.spread),
    )
