from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.charts import draw_thresholds, draw_training

    run(draw_training, Path(snakemake.input.history), Path(snakemake.output.training))
    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.thresholds)],
        Path(snakemake.output.thresholds),
    )
