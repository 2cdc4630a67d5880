"""Label the pieces of cells in one part of a volume."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.segmentation import label_part

    run(
        label_part,
        Path(snakemake.input.prediction),
        Path(snakemake.input.postprocessing),
        Path(snakemake.output.pieces),
        block=snakemake.config["block"],
        memory_gb=snakemake.config["memory_gb"],
    )
