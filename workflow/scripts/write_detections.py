"""Write the tables of the detections of a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import write_table

    for volume in snakemake.params.volumes:
        run(write_table, **volume)
