"""Remove overlapping boxes in a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.detection import detect

    for volume in snakemake.params.volumes:
        run(
            detect,
            [volume["prediction"]],
            volume["output"],
            shape=volume["shape"],
            one_per_section=snakemake.params.one_per_section,
        )
