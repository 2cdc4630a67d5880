"""Draw all figures of the report of a detector."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.shown import REPORT_PIXELS
    from pipeline_lib.stages.detection_figures import draw_detection_charts, prepare_detection_layers
    from pipeline_lib.stages.pictures import draw_training

    for layers in snakemake.params.layers:
        run(prepare_detection_layers, **layers, pixels=REPORT_PIXELS // len(snakemake.params.layers))
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_detection_charts,
        snakemake.params.volumes,
        Path(snakemake.input.postprocessing),
        Path(snakemake.output.thresholds),
        Path(snakemake.output.counts),
    )
