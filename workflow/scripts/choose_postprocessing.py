"""Choose the post-processing of one trained model, or of each baseline."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.postprocessing import choose_postprocessing

    for model in snakemake.params.models:
        run(
            choose_postprocessing,
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **model,
            **snakemake.params.segmentation,
        )
