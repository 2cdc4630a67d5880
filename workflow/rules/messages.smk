# What a run checks and says when its plan is known, and its last lines. This file has no rules.


def show_plan(dag):
    """Print what the run replaces, or its results if there is nothing to do."""
    require_records(dag)
    require_sources(dag)
    protect_models(dag)
    if not workflow.dryrun:
        keep_edited(dag)
    if not workflow.dryrun and not [*dag.needrun_jobs()]:
        print(results_message(), estimate_message(), sep="", end="", flush=True)


def require_records(dag):
    """End the run if existing results are taken as they are, although it is not known how they were made."""
    made = {*dag.needrun_jobs()}
    for job in dag.jobs:
        own = job.rule in internals.own_rules(workflow) and job not in made
        first = next(iter(job.output), None)
        if own and first and os.path.exists(first) and not internals.has_record(workflow, job):
            earlier = locks.earlier_folder(config["results"])
            where = f", in {earlier}" if earlier not in (None, os.getcwd()) else ""
            sys.exit(
                f"error: {first}: Snakemake does not know with which settings it was made, so changed settings "
                "would have no effect. Its records are in the folder `.snakemake` of the working folder of the "
                f"earlier run{where}. Type the same command there. If the records are lost, or the results were "
                "moved, and the config is that of these results, add `--touch --forceall` once: all results "
                "are then taken as those of the config. Otherwise choose another folder with `results:`."
            )


def require_sources(dag):
    """End the run if a source of a dataset has other content but an older date, which Snakemake does not notice.

    Copies keep their dates (`cp -p`, `rsync -a`, unzip). The time at which the file system last changed a file
    is that of the copy, so only files that are newer in this sense than their dataset are read.
    """
    made = {str(path) for job in dag.needrun_jobs() for path in job.output}
    datasets = [Path(config["results"], folder, f"{name}.h5") for folder in DATASETS for name in VOLUMES]
    for path in datasets if "drawing" not in config else ():
        if str(path) in made or not path.exists():
            continue
        record = {}
        with suppress(InputError):  # a damaged record, which the jobs report
            record = provenance.find_record(path) or {}
        for source, known in record.get("inputs", {}).items():
            newer = os.path.isfile(source) and os.stat(source).st_ctime > path.stat().st_ctime
            if newer and sha256(source) != known:
                sys.exit(
                    f"error: {source}: has other content than when {path} was made from it, but an older date, "
                    f"which Snakemake does not notice. Type `touch {shlex.quote(source)}` and the same command "
                    "again."
                )


def keep_edited(dag):
    """Copy labels and detections that a person has edited since, before the run replaces them."""
    for job in dag.needrun_jobs():
        for path in map(Path, job.output):
            for_people = path.parent.name in ("segmentation", "detection") and path.is_file()
            try:
                if for_people and provenance.record_path(path).exists() and not provenance.is_result(path):
                    print(f"keeps {replacement.keep_file(path)}: edited after it was made", file=sys.stderr)
            except (InputError, OSError) as error:
                sys.exit(f"error: {explained(error, path)}")


def protect_models(dag):
    """Print which trained models the run replaces and why. A real run needs leave, and keeps copies."""
    planned = [job for job in dag.needrun_jobs() if job.rule.name == "train_model"]
    replaced = [
        job
        for job in planned
        if job.rule in internals.own_rules(workflow)
        and Path(job.output.model).exists()
        and not dag.reason(job).incomplete_output  # of a killed run, which continues
    ]
    packaged = {MODEL: Path(config["results"], "model.pt")}
    titles, reasons = {}, {}
    for job in replaced:
        name, model = job.wildcards.model, Path(job.output.model)
        titles[model] = replacement.title(model, packaged.get(name))
        unknown = (
            "settings of its data or `study.minutes` changed" if TIMED else "settings of its data changed"
        )
        if lost := [path for path in job.input if not os.path.exists(path)]:
            unknown = f"its input {lost[0]} is missing and is made again, or settings of its data changed"
        reasons[model] = replacement.changes(model, settings_of(name)) or unknown
        print(f"replaces {titles[model]}: {reasons[model]}", file=sys.stderr)
    if replaced and not workflow.dryrun:
        try:
            replacement.require_leave(titles, reasons, REPLACE)
            for job in replaced:
                replacement.keep(Path(job.output.model), packaged.get(job.wildcards.model))
        except (InputError, OSError) as error:
            sys.exit(f"error: {explained(error, Path(config['results'], 'models'))}")


def made_report():
    """Return whether the report is among the results of this run, and not only some targets."""
    return any(f"{config['results']}/report.html" in job.output for job in workflow.dag.jobs)


def clear_states():
    """Delete the states that trainings could resume from, after a run that made the report.

    A run of some targets only keeps them.
    """
    if not made_report():
        return
    for state in Path(config["results"], "models").glob("*/model.checkpoint.pt"):
        if state.with_name("model.pt").exists():
            state.unlink()


def results_message():
    """Return the last lines of a run: scores, report and next step. Without a report, all main results."""
    results, doubts = Path(config["results"]), doubts_found()
    noticed = "" if doubts is None else noted_doubts(doubts)
    if made_report():
        from pipeline_lib.stages.report import score_line

        chosen = [results / f"postprocessing/{model}.json" for model in (MODEL, *BASELINES)]
        complete = all(path.exists() for path in chosen)  # a person may have deleted some
        lines = {
            **({"scores": score_line(results / "scores.csv", chosen, MODEL)} if complete else {}),
            **({"comparison": results / "comparison.html"} if STUDY else {}),
            "report": f"{results / 'report.html'}{warnings_found()}",
            "next": f"bordure predict {shlex.quote(str(results / 'model.pt'))} NEW.tif --out cells",
        }
        if doubts:
            lines["check"] = f"{results / 'check.html'}{noticed}"
    else:
        found = {
            "check": "check.html",
            "model": "model.pt",
            "segmentation": "segmentation",
            "detection": "detection",
            "summary": SUMMARY.replace("<results>/", ""),
        }
        lines = {name: results / path for name, path in found.items() if (results / path).exists()}
        if "check" in lines:
            lines["check"] = f"{lines['check']}{noticed}"
    return "".join(f"{name:<13} {text}\n" for name, text in lines.items())


def seconds_per_iteration(model):
    """Return how long an iteration of a training takes: from the file of its variant, or measured now."""
    if STUDY and (path := Path(config["results"], "speed", f"{model.speed}.json")).exists():
        return read_json(path)["seconds_per_iteration"]
    from pipeline_lib.training.speed import measure_speed  # imports torch

    return measure_speed(
        model.settings["network"],
        model.settings["training"],
        model.settings["augmentation"],
        channels=imageio.number_of(CHANNELS),
        classes=model.classes.names if model.classes.several else (),
        cells=model.classes.cells,
        threads=workflow.cores,
    )


def estimate_message():
    """Return what a whole run would cost, after a run that was only the check; otherwise nothing."""
    planned = {job.rule.name for job in workflow.dag.jobs}
    if MODEL_FILE or "train_model" in planned or "check" not in planned or not workflow.local_exec:
        return ""
    splits = {name: row.split for name, row in VOLUMES.items()}
    datasets = {name: Path(config["results"], "dataset", f"{name}.h5") for name in VOLUMES}
    model = Path(config["results"], "models", FIRST, "model.pt")
    try:
        measured = {name: seconds_per_iteration(model) for name, model in SPEEDS.items()}
        per_step = {name: measured[model.speed] for name, model in VARIANTS.items()}
        lines = f"whole run     {estimate.describe_run(SETTINGS, SHAPES, splits, datasets, per_step)}\n"
        learned = [datasets[name] for name in [*TRAINED[FIRST].train, *TRAINED[FIRST].validation]]
        if model.exists() and (changes := replacement.changes(model, settings_of(FIRST), learned)):
            title = replacement.title(model, Path(config["results"], "model.pt"))
            lines += f"              it will replace {title}: {changes}\n"
        run = f"bordure run {shlex.quote(str(workflow.configfiles[-1]))}\n" if workflow.configfiles else ""
        return f"{lines}next          {run}" if run else lines
    except InputError as error:
        return f"error: {error}\n"


def doubts_found():
    """Return the doubts in `check.json`; None if there is no such file."""
    path = Path(config["results"], "check.json")
    return read_json(path)["doubts"] if path.exists() else None


def noted_doubts(doubts):
    """Return the number of doubts as text, and the heaviest."""
    texts = [f"{doubt['volume']}, {doubt['name']}: {doubt['text'].splitlines()[0]}" for doubt in doubts[:3]]
    texts += ["..."] * (len(doubts) > 3)
    return noted("doubt", len(doubts), texts)


def warnings_found():
    """Return the number of warnings in `warnings.json` as text, and all of them; nothing if there are none."""
    path = Path(config["results"], "warnings.json")
    warnings = read_json(path)["warnings"] if path.exists() else []
    return noted("warning", len(warnings), [warning["text"] for warning in warnings]) if warnings else ""


def noted(noun, number, texts):
    """Return a number of things as text, and their texts on lines below."""
    return "\n    ".join([f" ({number} {noun}{'' if number == 1 else 's'})", *texts])


def with_row(error):
    """Return an error of a volume with file and line of its row in the table in front, as in the dry run."""
    name = re.match("volume ([A-Za-z0-9_.-]+): ", error)
    return f"{VOLUMES[name[1]].row}, {error}" if name and name[1] in VOLUMES else error


def error_message():
    """Return the error in each log that this run wrote. It is printed last, so that users see the reason."""
    logs = [path for path in Path(config["results"], "logs").rglob("*.log") if path.stat().st_mtime >= START]
    texts = {path: path.read_text(errors="replace") for path in logs}
    logged = re.compile(r"^\S* ?error: (.*(?:\n(?!\d\d:\d\d:\d\d ).*)*)", re.MULTILINE)
    errors = {
        path: "\nerror: ".join(with_row(error.strip()) for error in logged.findall(text))
        for path, text in texts.items()
    }
    errors |= {
        path: "the job ended without an error message. It was killed, most likely because memory ran out, or "
        "the disk is full. Lower `--cores` or `memory_gb` (for a training: `training.tile`), or free disk space, "
        "and run the same command again."
        for path, text in texts.items()
        if text and not re.search("error: |Traceback|done in", text)  # empty: the job never started
    }
    if shutil.disk_usage(config["results"]).free < 10**6:
        errors[Path(config["results"])] = "the disk is full. Free space there and run the same command again."
    return (
        "\n".join(f"error: {text}\n({path})" for path, text in errors.items() if text)
        or "error: the run is incomplete. If no message above gives the reason, it was ended from outside. "
        "Run the same command again to continue."
    )
