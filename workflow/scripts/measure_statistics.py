from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.dataset import measure_statistics

    measure_statistics(
        snakemake.input.datasets,
        snakemake.output.statistics,
        normalisation_kind=snakemake.params.normalisation,
    )
