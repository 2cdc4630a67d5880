# From raw images to a scored report: raw -> dataset -> training -> prediction -> scores -> report.
import re

from snakemake.utils import min_version

min_version("9.19")  # path variables such as <results>, and the name profile.yaml

if not workflow.overwrite_configfiles:  # --configfile replaces the demo, it does not add to it

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=config["results"],
    logs=f"{config['results']}/logs",
    benchmarks=f"{config['results']}/benchmarks",


# What jobs run in where asked to (--software-deployment-method apptainer); conda's is named by each rule.
container: f"{workflow.basedir}/containers/bordure.sif"


report: "workflow/report/workflow.rst"


wildcard_constraints:
    volume="|".join(map(re.escape, SCATTERED)),
    part="[1-9][0-9]*",
    seed="[0-9]+",


rule all:
    input:
        "<results>/report.html",
        "<results>/scores.csv",
        "<results>/model/model.pt",
        expand("<results>/segmentation/{volume}_labels.tif", volume=SEGMENTED),


include: "workflow/rules/dataset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/cluster.smk"


try:
    check_outputs()
except InputError as error:
    sys.exit(f"error: {error}")


onstart:
    end_orphans(alone=claim_results())


onsuccess:
    clear_states()
    print(results_message(), end="")


onerror:
    print(error_message(), file=sys.stderr)
