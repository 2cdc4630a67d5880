"""Write the segmentations of a batch of volumes as TIFF."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.segmentation import write_tiffs

    for volume in snakemake.params.volumes:
        run(write_tiffs, **volume)
