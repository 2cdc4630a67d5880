from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.charts import draw_thresholds

    run(
        draw_thresholds,
        Path(snakemake.input.scores),
        [*map(Path, snakemake.input.thresholds)],
        Path(snakemake.output.figure),
    )
