"""Write the complete model file."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.packaging import package_model

    run(
        package_model,
        [Path(model) for model in snakemake.input.models],
        Path(snakemake.input.postprocessing),
        [*map(Path, snakemake.input.scores)],
        Path(snakemake.output[0]),
        network=snakemake.params.network,
        channels=snakemake.params.channels,
        average_orientations=snakemake.params.average_orientations,
    )
