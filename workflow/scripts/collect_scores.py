"""Collect the scores of all models and volumes in one table."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.scores import SECTION_COLUMNS
    from pipeline_lib.stages.evaluation import CAUSE_COLUMNS, collect_scores

    run(collect_scores, [*map(Path, snakemake.input.scores)], Path(snakemake.output.scores))
    run(
        collect_scores,
        [*map(Path, snakemake.input.sections)],
        Path(snakemake.output.sections),
        SECTION_COLUMNS,
    )
    for causes in snakemake.output.causes:
        run(collect_scores, [*map(Path, snakemake.input.causes)], Path(causes), CAUSE_COLUMNS)
