from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.threshold import choose_threshold

    datasets = [*map(Path, snakemake.input.datasets)]
    for number, output in enumerate(snakemake.output):
        predictions = snakemake.input.predictions[number * len(datasets) : (number + 1) * len(datasets)]
        run(
            choose_threshold,
            datasets,
            [*map(Path, predictions)],
            Path(output),
            memory_gb=snakemake.config["memory_gb"],
            threads=snakemake.threads,
            **snakemake.params.segmentation,
        )
