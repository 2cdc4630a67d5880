# Check of all images and annotations before anything is trained.


rule check:
    input:
        "<results>/check.html",
        "<results>/check_passed.json",


# The page must remain if doubts stop the run, and Snakemake deletes the outputs of a failed job. Therefore
# this rule always succeeds, and the next one fails.
rule check_volumes:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=VOLUMES),
    output:
        page="<results>/check.html",
        doubts="<results>/check.json",
    log:
        "<logs>/check_volumes.log",
    benchmark:
        "<benchmarks>/check_volumes.tsv"
    group:
        PREPARE
    conda:
        "../../environment.yml"
    resources:
        mem_mb=MEMORY_MB,
    params:
        volumes=each(
            VOLUMES,
            volume="{volume}",
            split={name: row.split for name, row in VOLUMES.items()},
            dataset="<results>/dataset/{volume}.h5",
            **({"fold": fold_of_volumes()} if len(FOLDS) > 1 else {}),
        ),
        context=PLAN.geometry.context,
        accept=literal(config["check"]["accept"]),
        stop_above=config["check"]["stop_above"],
        shown=config["report"]["volumes"],
    script:
        "../scripts/check_volumes.py"


rule require_accepted:
    input:
        doubts="<results>/check.json",
        page="<results>/check.html",
    output:
        passed="<results>/check_passed.json",
    log:
        "<logs>/require_accepted.log",
    benchmark:
        "<benchmarks>/require_accepted.tsv"
    group:
        PREPARE
    localrule: True
    conda:
        "../../environment.yml"
    script:
        "../scripts/require_accepted.py"
