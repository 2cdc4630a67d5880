"""Draw all figures of the report of a detector."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection_figures import draw_detection_charts, prepare_detection_layers
    from pipeline_lib.stages.layers import pixels_to_show
    from pipeline_lib.stages.pictures import draw_training

    shown = snakemake.params.layers
    for layers, pixels in zip(shown, pixels_to_show(shown), strict=True):
        run(prepare_detection_layers, **layers, pixels=pixels)
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_detection_charts,
        snakemake.params.volumes,
        Path(snakemake.input.postprocessing),
        Path(snakemake.output.thresholds),
        Path(snakemake.output.counts),
    )
