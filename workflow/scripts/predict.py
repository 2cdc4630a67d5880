from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.prediction import predict

    predict(
        snakemake.input.dataset,
        snakemake.input.model,
        snakemake.output.prediction,
        threads=snakemake.threads,
        **snakemake.params.prediction,
    )
