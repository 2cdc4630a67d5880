from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.figures.errors import draw_errors
    from pipeline_lib.figures.volume import draw_volume_strip

    threshold = Path(snakemake.input.threshold)
    weight_maps = {Path(path).stem: Path(path) for path in snakemake.input.weight_maps}
    errors = {Path(path).stem: Path(path) for path in snakemake.output.errors}
    files = zip(snakemake.input.datasets, snakemake.input.predictions, snakemake.output.strips, strict=True)
    for (volume, split), (dataset, prediction, strip) in zip(
        snakemake.params.volumes.items(), files, strict=True
    ):
        run(
            draw_volume_strip,
            Path(dataset),
            weight_maps.get(volume),
            Path(prediction),
            threshold,
            Path(strip),
            volume=volume,
            split=split,
            minimum_size=snakemake.params.minimum_size,
        )
        if volume in errors:
            run(draw_errors, Path(dataset), Path(prediction), threshold, errors[volume], volume=volume)
