from pipeline_lib.log import stage

with stage(snakemake.log[0], snakemake.threads):
    from pipeline_lib.dataset import build_weight_map

    build_weight_map(
        snakemake.input.dataset,
        snakemake.input.statistics,
        snakemake.output.weight_map,
        **snakemake.params.weight_map,
    )
