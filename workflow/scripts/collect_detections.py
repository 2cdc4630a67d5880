"""Write one table of the detections in all volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.imageio.boxes import COLUMNS
    from pipeline_lib.stages.evaluation import collect_scores

    run(
        collect_scores,
        [*map(Path, snakemake.input.tables)],
        Path(snakemake.output.detections),
        columns=COLUMNS,
    )
