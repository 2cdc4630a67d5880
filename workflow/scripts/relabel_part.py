"""Write the final labels of one part of a volume."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.segmentation import relabel_part

    run(
        relabel_part,
        Path(snakemake.input.pieces),
        Path(snakemake.input.numbers),
        Path(snakemake.output.segmentation),
        block=snakemake.config["block"],
    )
