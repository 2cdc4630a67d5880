"""Draw all figures of the report."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.layers import pixels_to_show, prepare_layers
    from pipeline_lib.stages.pictures import draw_thresholds, draw_training

    shown = snakemake.params.layers
    for layers, pixels in zip(shown, pixels_to_show(shown), strict=True):
        run(prepare_layers, **layers, pixels=pixels)
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.postprocessing)],
        Path(snakemake.output.thresholds),
    )
