# From cell probabilities to post-processing, scores and their spread over seeds.


rule evaluate:
    input:
        "<results>/scores.csv",
        ["<results>/scores_spread.csv"] if len(OF_MAIN) > 1 else [],


rule choose_postprocessing:
    input:
        datasets=of_model("<results>/dataset/{volume}.h5", "validation"),
        targets=of_model("<results>/{dataset}/{volume}.h5", "validation"),
        predictions=of_model("<results>/prediction/{model}/{volume}.h5", "validation"),
    output:
        "<results>/postprocessing/{model}.json",
        "<results>/postprocessing/{model}_tried.csv",
    log:
        "<logs>/choose_postprocessing/{model}.log",
    benchmark:
        "<benchmarks>/choose_postprocessing/{model}.tsv"
    wildcard_constraints:
        model=one_of(SEGMENTERS),
    group:
        FINISH
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=MEMORY_MB,
    params:
        models=choices(),
        segmentation=setting("segmentation"),
    script:
        "../scripts/choose_postprocessing.py"


use rule choose_postprocessing as choose_postprocessing_baselines with:
    input:
        datasets=expand("<results>/dataset/{volume}.h5", volume=VALIDATION),
        predictions=expand("<results>/prediction/{model}/{volume}.h5", model=BASELINES, volume=VALIDATION),
    output:
        expand("<results>/postprocessing/{model}{end}", model=BASELINES, end=[".json", "_tried.csv"]),
    log:
        "<logs>/choose_postprocessing/baselines.log",
    benchmark:
        "<benchmarks>/choose_postprocessing/baselines.tsv"
    group:
        DERIVE
    params:
        models=choices(BASELINES),
        segmentation=SEGMENTATION_OF_BASELINES,


SCORED = scored_by(SEGMENTERS)

for batch in batches_of("evaluate", **{group: names for group, (names, _) in SCORED.items()}):

    rule:
        name:
            batch.rule_name
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=batch.volumes),
            targets=of_model("<results>/{dataset}/{volume}.h5", batch.volumes),
            predictions=expand("<results>/prediction/{{model}}/{volume}.h5", volume=batch.volumes),
            segmentations=expand("<results>/segmentation/{{model}}/{volume}.h5", volume=batch.volumes),
            postprocessing="<results>/postprocessing/{model}.json",
        output:
            expand("<results>/scores/{{model}}/{volume}.csv", volume=batch.volumes),
            expand("<results>/scores/{{model}}/sections/{volume}.csv", volume=batch.volumes),
            expand("<results>/scores/{{model}}/causes/{volume}.csv", volume=batch.volumes),
        log:
            f"<logs>/evaluate/{{model}}/{batch.name}.log",
        benchmark:
            f"<benchmarks>/evaluate/{{model}}/{batch.name}.tsv"
        wildcard_constraints:
            model=one_of(SCORED[batch.group][1]),
        group:
            FINISH
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            mem_mb=MEMORY_MB,
        params:
            volumes=evaluations(
                batch.volumes, **PIXELWISE, causes="<results>/scores/{model}/causes/{volume}.csv"
            ),
        script:
            "../scripts/evaluate.py"


for batch in batches_of("evaluate", baselines=EVALUATED):

    rule:
        name:
            batch.rule_name
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=batch.volumes),
            predictions=expand(
                "<results>/prediction/{model}/{volume}.h5", model=BASELINES, volume=batch.volumes
            ),
            postprocessing=expand("<results>/postprocessing/{model}.json", model=BASELINES),
        output:
            segmentations=expand(
                "<results>/segmentation/{model}/{volume}.h5", model=BASELINES, volume=batch.volumes
            ),
            scores=expand("<results>/scores/{model}/{volume}.csv", model=BASELINES, volume=batch.volumes),
            sections=expand(
                "<results>/scores/{model}/sections/{volume}.csv", model=BASELINES, volume=batch.volumes
            ),
        log:
            f"<logs>/evaluate_baselines/{batch.name}.log",
        benchmark:
            f"<benchmarks>/evaluate_baselines/{batch.name}.tsv"
        group:
            DERIVE
        conda:
            "../../environment.yml"
        threads: 8
        resources:
            mem_mb=MEMORY_MB,
        params:
            segmentations=segmentations(batch.volumes, BASELINES),
            volumes=evaluations(batch.volumes, BASELINES),
        script:
            "../scripts/evaluate_baselines.py"


SUMMARISED = [MODEL, *BASELINES, *(name for name in OF_MAIN if name != MODEL)]


rule collect_scores:
    input:
        scores=files_of_models("<results>/scores/{model}/{volume}.csv", SUMMARISED),
        sections=files_of_models("<results>/scores/{model}/sections/{volume}.csv", SUMMARISED),
        causes=causes_of(SUMMARISED),
    output:
        scores="<results>/scores.csv",
        sections="<results>/scores_sections.csv",
        causes=["<results>/scores_causes.csv"] if causes_of(SUMMARISED) else [],
    log:
        "<logs>/collect_scores.log",
    benchmark:
        "<benchmarks>/collect_scores.tsv"
    group:
        JOIN
    localrule: True
    conda:
        "../../environment.yml"
    script:
        "../scripts/collect_scores.py"


if len(OF_MAIN) > 1:

    rule measure_spread:
        input:
            scores="<results>/scores.csv",
            postprocessing=expand("<results>/postprocessing/{model}.json", model=OF_MAIN),
        output:
            spread="<results>/scores_spread.csv",
        log:
            "<logs>/measure_spread.log",
        benchmark:
            "<benchmarks>/measure_spread.tsv"
        localrule: True
        conda:
            "../../environment.yml"
        script:
            "../scripts/measure_spread.py"
