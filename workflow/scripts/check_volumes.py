"""Check the images and annotations of all volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.check import check

    run(
        check,
        snakemake.params.volumes,
        Path(snakemake.output.page),
        Path(snakemake.output.doubts),
        context=snakemake.params.context,
        accept=snakemake.params.accept,
        stop_above=snakemake.params.stop_above,
        shown=snakemake.params.shown,
    )
