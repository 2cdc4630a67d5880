"""Score the predictions of a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.evaluation import evaluate

    for volume in snakemake.params.volumes:
        run(
            evaluate,
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **volume,
        )
