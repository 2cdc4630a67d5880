from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.segmentation import segment

    segment(
        snakemake.input.prediction,
        snakemake.input.threshold,
        snakemake.output.labels,
        snakemake.output.cell_probability,
        minimum_size=snakemake.params.minimum_size,
    )
