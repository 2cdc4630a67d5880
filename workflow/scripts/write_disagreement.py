"""Write the disagreement of the members of an ensemble for a batch of volumes as TIFF."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.ensemble import write_disagreement

    for volume in snakemake.params.volumes:
        run(write_disagreement, **volume)
