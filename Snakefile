# Default Snakefile of a checkout: the workflow (workflow/Snakefile), with the config of the demo unless
# --configfile is given. Without the condition, Snakemake would add --configfile to the demo's config.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.current_basedir}/config/config.yaml"


include: "workflow/Snakefile"


rule default:  # an included Snakefile has no default target
    default_target: True
    input:
        rules.all.input,
