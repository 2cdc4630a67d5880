# What `snakemake` runs in a checkout: the workflow (workflow/Snakefile), with the demo where no --configfile names another run.
if not workflow.overwrite_configfiles:  # --configfile replaces the demo, it does not add to it

    configfile: f"{workflow.current_basedir}/config/config.yaml"


include: "workflow/Snakefile"


rule default:  # an included Snakefile has no default target
    default_target: True
    input:
        rules.all.input,
