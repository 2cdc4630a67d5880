"""Write the report and the provenance page."""

from pathlib import Path

from pipeline_lib.runtime.log import stage

with stage(snakemake.log[0], snakemake.threads) as run:
    from pipeline_lib.stages.provenance_page import write_provenance_page
    from pipeline_lib.stages.report import Contents, write_report

    contents = Contents(
        title=snakemake.params.title,
        network=snakemake.params.network,
        settings=snakemake.params.settings | {"training": snakemake.params.training},
        study=snakemake.params.study,
        before=snakemake.params.before,
        volumes=snakemake.params.volumes,
        scores=Path(snakemake.input.scores),
        spread=[*map(Path, snakemake.input.spread)],
        history=Path(snakemake.input.history),
        model=Path(snakemake.input.model),
        postprocessing=[*map(Path, snakemake.input.postprocessing)],
        statistics=Path(snakemake.input.statistics),
        check=Path(snakemake.input.check),
        layers=[*map(Path, snakemake.input.layers)],
        causes=Path(snakemake.input.causes) if snakemake.input.causes else None,
        training_figure=Path(snakemake.input.training),
        thresholds_figure=Path(snakemake.input.thresholds),
        counts_figure=next(map(Path, snakemake.input.counts), None),
        boxes=next(map(Path, snakemake.input.boxes), None),
    )
    run(write_report, contents, Path(snakemake.output.report), Path(snakemake.output.warnings))
    run(
        write_provenance_page,
        [Path(snakemake.output.report), *map(Path, snakemake.input.results)],
        Path(snakemake.output.provenance),
        title=snakemake.params.title,
    )
