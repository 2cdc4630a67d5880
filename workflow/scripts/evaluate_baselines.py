"""Segment and score the baselines for a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.evaluation import evaluate
    from pipeline_lib.stages.segmentation import segment

    for volume in snakemake.params.segmentations:
        run(segment, block=snakemake.config["block"], memory_gb=snakemake.config["memory_gb"], **volume)
    for volume in snakemake.params.volumes:
        run(evaluate, memory_gb=snakemake.config["memory_gb"], threads=snakemake.threads, **volume)
