from pathlib import Path

from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.evaluation import collect_scores

    collect_scores([*map(Path, snakemake.input.scores)], Path(snakemake.output.scores))
