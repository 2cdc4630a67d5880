"""Score the detections of a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import evaluate_detections

    for volume in snakemake.params.volumes:
        run(evaluate_detections, **volume)
