from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.dataset import build_dataset

    for volume, output in zip(snakemake.params.volumes, snakemake.output, strict=True):
        run(
            build_dataset,
            output=Path(output),
            block=snakemake.config["block"],
            memory_gb=snakemake.config["memory_gb"],
            **volume,
            **snakemake.params.dataset,
        )
