from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.segmentation import segment

    files = zip(
        snakemake.input.predictions, snakemake.output.labels, snakemake.output.cell_probabilities, strict=True
    )
    for prediction, labels, cell_probability in files:
        run(
            segment,
            Path(prediction),
            Path(snakemake.input.threshold),
            Path(labels),
            Path(cell_probability),
            minimum_size=snakemake.params.minimum_size,
            block=snakemake.config["block"],
            memory_gb=snakemake.config["memory_gb"],
        )
