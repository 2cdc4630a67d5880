from pipeline_lib.runtime.log import stage

processes = max(snakemake.resources.gpu, 1)  # one for each GPU
with stage(snakemake.log[0], max(snakemake.threads // processes, 1)) as run:
    from pipeline_lib.runtime.processes import launch
    from pipeline_lib.stages.training import train

    arguments = {
        **{name: [*paths] for name, paths in snakemake.input.items() if name != "statistics"},
        "statistics": snakemake.input.statistics,
        **dict(snakemake.output.items()),
        **dict(snakemake.params.items()),
        "threads": snakemake.threads,
    }
    if processes > 1:
        device = snakemake.params.training["device"]
        run(launch, "pipeline_lib.stages.training", processes, device, snakemake.log[0], **arguments)
    else:
        run(train, **arguments)
