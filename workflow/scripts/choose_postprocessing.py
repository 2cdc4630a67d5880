from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.threshold import choose_threshold

    for model in snakemake.params.models:
        run(
            choose_threshold,
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **model,
            **snakemake.params.segmentation,
        )
