"""Write the post-processing of a model file as JSON."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.postprocessing import unpack_postprocessing

    run(unpack_postprocessing, Path(snakemake.input.model), Path(snakemake.output.postprocessing))
