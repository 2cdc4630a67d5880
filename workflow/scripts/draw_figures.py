"""Draw all figures of the report."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.shown import REPORT_PIXELS
    from pipeline_lib.stages.layers import prepare_layers
    from pipeline_lib.stages.pictures import draw_thresholds, draw_training

    for layers in snakemake.params.layers:
        run(prepare_layers, **layers, pixels=REPORT_PIXELS // len(snakemake.params.layers))
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.postprocessing)],
        Path(snakemake.output.thresholds),
    )
