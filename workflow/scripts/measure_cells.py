"""Write the tables of the cells of a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.measurement import measure_volume

    for volume in snakemake.params.volumes:
        run(measure_volume, **volume)
