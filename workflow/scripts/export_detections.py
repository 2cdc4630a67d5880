"""Write the detections of a batch of volumes for people and for other programs."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import export_detections

    for volume in snakemake.params.volumes:
        run(export_detections, **volume)
