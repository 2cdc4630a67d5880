from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.segmentation import choose_threshold

    choose_threshold(
        snakemake.input.datasets,
        snakemake.input.predictions,
        snakemake.output.threshold,
        **snakemake.params.segmentation,
    )
