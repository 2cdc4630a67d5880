from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.prediction import predict_baseline

    predict_baseline(
        snakemake.input.dataset,
        snakemake.input.statistics,
        snakemake.output.prediction,
        network=snakemake.wildcards.network,
    )
