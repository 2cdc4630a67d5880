"""Write the datasets of a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.dataset import build_dataset

    for volume, settings in zip(snakemake.params.volumes, snakemake.params.datasets, strict=True):
        run(
            build_dataset,
            block=snakemake.config["block"],
            memory_gb=snakemake.config["memory_gb"],
            **volume,
            **settings,
        )
