"""End the run if a doubt of the check is not accepted."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.acceptance import require_accepted

    run(
        require_accepted,
        Path(snakemake.input.doubts),
        Path(snakemake.input.page),
        Path(snakemake.output.passed),
    )
