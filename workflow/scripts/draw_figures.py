"""Draw all figures of the report."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

#: Pixels of all sections in the report, which is then about 6 MB large.
PIXELS = 8_000_000

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.layers import prepare_layers
    from pipeline_lib.stages.pictures import draw_thresholds, draw_training

    for layers in snakemake.params.layers:
        run(prepare_layers, **layers, pixels=PIXELS // len(snakemake.params.layers))
    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.postprocessing)],
        Path(snakemake.output.thresholds),
    )
