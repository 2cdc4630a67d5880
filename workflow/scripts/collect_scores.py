from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.evaluation import collect_scores

    collect_scores(snakemake.input.scores, snakemake.output.scores)
