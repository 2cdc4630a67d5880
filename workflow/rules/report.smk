# Pictures, the report, and the provenance page that shows what all files were made from.


if MAIN.detects:

    rule draw_detections:
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=DRAWN),
            detections=expand("<results>/detection/{model}/{volume}.h5", model=MODEL, volume=DRAWN),
            segmentations=expand(
                "<results>/segmentation/{model}/{volume}.h5",
                model=MODEL,
                volume=SHOWN if MODEL in MASKED else [],
            ),
            postprocessing=f"<results>/postprocessing/{MODEL}.json",
            history=f"<results>/models/{FIRST}/history.csv",
        output:
            layers=expand("<results>/figures/layers/{volume}.json", volume=SHOWN),
            training=report(
                "<results>/figures/training.svg",
                caption="../report/training.rst",
                category="Model",
                labels={"figure": "training"},
            ),
            thresholds=report(
                "<results>/figures/thresholds.svg",
                caption="../report/curves.rst",
                category="Model",
                labels={"figure": "precision, recall and false detections"},
            ),
            counts=report(
                "<results>/figures/counts.svg",
                caption="../report/counts.rst",
                category="Model",
                labels={"figure": "numbers of objects"},
            ),
        log:
            "<logs>/draw_detections.log",
        benchmark:
            "<benchmarks>/draw_detections.tsv"
        group:
            JOIN
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            layers=each(
                SHOWN,
                [MODEL],
                dataset="<results>/dataset/{volume}.h5",
                detections="<results>/detection/{model}/{volume}.h5",
                segmentation="<results>/segmentation/{model}/{volume}.h5" if MODEL in MASKED else None,
                postprocessing="<results>/postprocessing/{model}.json",
                output="<results>/figures/layers/{volume}.json",
                volume="{volume}",
                split={name: split_of(name) for name in SHOWN},
                network="{model}",
            ),
            volumes=each(
                TEST + VALIDATION,
                [MODEL],
                dataset="<results>/dataset/{volume}.h5",
                detections="<results>/detection/{model}/{volume}.h5",
                split={name: split_of(name) for name in EVALUATED},
            ),
        script:
            "../scripts/draw_detections.py"

else:

    rule draw_figures:
        input:
            datasets=expand("<results>/dataset/{volume}.h5", volume=SHOWN),
            weight_maps=expand("<results>/weight_map/{volume}.h5", volume=SHOWN_WEIGHED),
            predictions=expand("<results>/prediction/{model}/{volume}.h5", model=MODEL, volume=SHOWN),
            segmentations=expand("<results>/segmentation/{model}/{volume}.h5", model=MODEL, volume=SHOWN),
            postprocessing=expand("<results>/postprocessing/{model}.json", model=[MODEL, *BASELINES]),
            history=f"<results>/models/{FIRST}/history.csv",
            scores="<results>/scores.csv",
            causes="<results>/scores_causes.csv",
        output:
            layers=expand("<results>/figures/layers/{volume}.json", volume=SHOWN),
            training=report(
                "<results>/figures/training.svg",
                caption="../report/training.rst",
                category="Model",
                labels={"figure": "training"},
            ),
            thresholds=report(
                "<results>/figures/thresholds.svg",
                caption="../report/thresholds.rst",
                category="Model",
                labels={"figure": "error against threshold"},
            ),
        log:
            "<logs>/draw_figures.log",
        benchmark:
            "<benchmarks>/draw_figures.tsv"
        group:
            JOIN
        conda:
            "../../environment.yml"
        resources:
            mem_mb=MEMORY_MB,
        params:
            layers=each(
                SHOWN,
                [MODEL],
                dataset="<results>/dataset/{volume}.h5",
                weight_map={
                    name: "<results>/weight_map/{volume}.h5" if name in SHOWN_WEIGHED else None
                    for name in SHOWN
                },
                prediction="<results>/prediction/{model}/{volume}.h5",
                segmentation="<results>/segmentation/{model}/{volume}.h5",
                causes={
                    name: "<results>/scores_causes.csv" if name in EVALUATED else None for name in SHOWN
                },
                output="<results>/figures/layers/{volume}.json",
                volume="{volume}",
                split={name: split_of(name) for name in SHOWN},
                network="{model}",
            ),
        script:
            "../scripts/draw_figures.py"


rule package_model:
    input:
        models=expand(
            "<results>/models/{model}/model.pt", model=[member.name for member in MAIN.members or [MAIN]]
        ),
        postprocessing=f"<results>/postprocessing/{MODEL}.json",
        # those of this model alone, so that it remains when further seeds are scored
        scores=expand("<results>/scores/{model}/{volume}.csv", model=MODEL, volume=EVALUATED),
    output:
        "<results>/model.pt",
    log:
        "<logs>/package_model.log",
    benchmark:
        "<benchmarks>/package_model.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        network=MODEL,
        average_orientations=config["prediction"]["average_orientations"],
        channels=CHANNELS,
    script:
        "../scripts/package_model.py"


# The variants of a study are on the page that compares them.
SHOWN_SETTINGS = {key: value for key, value in config.items() if key != "study"}


# Results folder of the run before, whose scores are shown beside those of this run
BEFORE = config["report"].get("before")
BEFORE = BEFORE and os.path.expanduser(BEFORE)
if BEFORE and not Path(BEFORE, "scores.csv").exists():
    sys.exit(
        f"error: config key `report.before`: {BEFORE}/scores.csv does not exist. Name the results folder of a "
        "complete run."
    )
if BEFORE and os.path.realpath(BEFORE) == os.path.realpath(config["results"]):
    sys.exit(
        f"error: config key `report.before`: {BEFORE} is the results folder of this run. Name that of another "
        "run, for example a copy of it."
    )


rule report:
    input:
        scores="<results>/scores.csv",
        spread=["<results>/scores_spread.csv"] if len(OF_MAIN) > 1 else [],
        history=f"<results>/models/{FIRST}/history.csv",
        model=f"<results>/models/{FIRST}/model.pt",
        postprocessing=expand("<results>/postprocessing/{model}.json", model=[MODEL, *BASELINES]),
        statistics="<results>/statistics.json",
        speed=[f"<results>/speed/{MAIN.speed}.json"] if TIMED else [],
        check="<results>/check.json",
        passed="<results>/check_passed.json",
        layers=expand("<results>/figures/layers/{volume}.json", volume=SHOWN),
        causes=[] if MAIN.detects else "<results>/scores_causes.csv",
        training="<results>/figures/training.svg",
        thresholds="<results>/figures/thresholds.svg",
        counts=["<results>/figures/counts.svg"] if MAIN.detects else [],
        boxes=of_model("<results>/{boxes}.json", [None]) if MAIN.detects else [],
        before=scores_before(BEFORE, MODEL, baselines.BASELINES) if BEFORE else [],
        results=[
            *expand("<results>/segmentation/{volume}_labels.tif", volume=SEGMENTED),
            *expand("<results>/segmentation/{volume}_disagreement.tif", volume=AVERAGED),
            *expand(EXPORTS["table"], volume=DETECTED),
        ],
    output:
        report=report("<results>/report.html", caption="../report/report.rst", category="Report"),
        warnings="<results>/warnings.json",
        provenance="<results>/provenance.html",
    log:
        "<logs>/report.log",
    benchmark:
        "<benchmarks>/report.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    params:
        title=literal(config["report"]["title"]),
        network=MODEL,
        settings=SHOWN_SETTINGS,
        training=schedule(),
        study=STUDY,
        before=literal(BEFORE),
        volumes=[
            vars(volume) | {"split": split_of(name)} | ({"whole": DIVIDED[name]} if DIVIDED else {})
            for name, volume in VOLUMES.items()
        ],
    script:
        "../scripts/report.py"
