"""Predict the masks of the detections in a batch of volumes."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.masks import predict_masks

    for volume in snakemake.params.volumes:
        run(
            predict_masks,
            model=Path(snakemake.input.model),
            precision=snakemake.params.prediction["precision"],
            device=snakemake.params.prediction["device"],
            threads=snakemake.threads,
            **volume,
        )
