"""Draw all figures of the report."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.pictures import (
        draw_causes,
        draw_errors,
        draw_thresholds,
        draw_training,
        draw_volume_strip,
    )

    for strip in snakemake.params.strips:
        run(draw_volume_strip, **strip)
    for errors in snakemake.params.errors:
        run(draw_errors, **errors)
    run(
        draw_causes,
        Path(snakemake.input.causes),
        {own["volume"]: (own["dataset"], own["segmentation"]) for own in snakemake.params.compared},
        Path(snakemake.output.causes),
        network=snakemake.params.network,
    )
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.postprocessing)],
        Path(snakemake.output.thresholds),
    )
