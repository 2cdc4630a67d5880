"""Give the pieces of cells in all parts of a volume their final labels."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.segmentation import number_parts

    run(
        number_parts,
        [*map(Path, snakemake.input.pieces)],
        Path(snakemake.input.postprocessing),
        Path(snakemake.output.numbers),
        shape=snakemake.params.shape,
        jobs=snakemake.params.jobs,
    )
