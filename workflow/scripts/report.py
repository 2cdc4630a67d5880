from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.provenance_page import write_provenance_page
    from pipeline_lib.stages.report import write_report

    run(
        write_report,
        Path(snakemake.input.scores),
        Path(snakemake.input.history),
        [*map(Path, snakemake.input.thresholds)],
        Path(snakemake.input.statistics),
        Path(snakemake.input.model),
        [*map(Path, snakemake.input.strips)],
        [*map(Path, snakemake.input.errors)],
        Path(snakemake.input.training),
        Path(snakemake.input.error_against_threshold),
        Path(snakemake.output.report),
        title=snakemake.params.title,
        settings=snakemake.params.settings,
        volumes=snakemake.params.volumes,
        network=snakemake.params.settings["network"]["name"],
        spread=next(map(Path, snakemake.input.spread), None),
    )
    run(
        write_provenance_page,
        [Path(snakemake.output.report), *map(Path, snakemake.input.segmentations)],
        Path(snakemake.output.provenance),
        title=snakemake.params.title,
    )
