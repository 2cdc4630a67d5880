from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.prediction import predict

    for dataset, output in zip(snakemake.input.datasets, snakemake.output, strict=True):
        run(
            predict,
            Path(dataset),
            Path(snakemake.input.model),
            Path(output),
            part=int(snakemake.wildcards.get("part", 1)),
            jobs=snakemake.params.jobs,
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **snakemake.params.prediction,
        )
