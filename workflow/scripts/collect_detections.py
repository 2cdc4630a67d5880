"""Write one table of the detections in all volumes, and one of their numbers."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.imageio.boxes import COLUMNS, COUNT_COLUMNS
    from pipeline_lib.stages.evaluation import collect_scores

    for tables, output, columns in (
        (snakemake.input.tables, snakemake.output.detections, COLUMNS),
        (snakemake.input.counts, snakemake.output.counts, COUNT_COLUMNS),
    ):
        run(collect_scores, [*map(Path, tables)], Path(output), columns=columns)
