"""Average the predictions of the members of an ensemble for a batch of volumes."""

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.ensemble import average_predictions

    for volume in snakemake.params.volumes:
        run(average_predictions, **volume)
