# What a cluster is told of the rules, and what it may still be doing for an earlier run. No rules here.
import cluster

# These take a second or two and no memory: they run beside Snakemake itself.
NEED_NO_NODE = ("collect_scores", "draw_charts", "measure_spread", "report")

# Where all volumes together are no more than one batch, these too take seconds each, less than their place in the
# queue costs: they share a cluster job. Training and prediction, which ask for most, have jobs of their own.
TOGETHER = {
    "prepare": (
        "draw_volume",
        "build_dataset",
        "measure_statistics",
        "build_weight_map",
        "predict_baselines",
    ),
    "finish": ("choose_thresholds", "segment", "evaluate", "draw_volumes"),
}
SMALL = sum(map(math.prod, SHAPES.values())) <= volumes.BATCH


for made in workflow.rules:
    stage = re.sub("(_seed)?(_[0-9]+)?$", "", made.name)  # without what tells its batch or further seeds
    if stage in NEED_NO_NODE:
        workflow.localrules(made.name)
    elif SMALL:
        made.group = next((group for group, stages in TOGETHER.items() if stage in stages), None)

# What the cluster knows this run's jobs by.
JOBS = os.environ[cluster.NAME] = cluster.name_of(config["results"])


# The shell around each job, told like all its processes that the end is near, waits for what runs in it.
shell.prefix("trap : TERM; ")


def end_orphans(alone):
    """Jobs that an earlier run left in the queue are cancelled before any is submitted: they outlive Snakemake.

    Where this run cannot be sure to be `alone` in its results folder, they may be another's, and are left to it.
    """
    executor = workflow.scheduler._executor
    if hasattr(executor, "run_uuid"):  # the Slurm plugin calls jobs by a random name of each run
        executor.run_uuid = JOBS
    try:
        cluster.cancel_orphans(JOBS, 0 if workflow.local_exec else cluster.OUTAGE, alone)
    except cluster.Contended as jobs:
        sys.exit(
            f"error: {config['results']} lies on a file system without locks, and jobs of it are in the queue: {jobs}. "
            f"If no other run is at work there, end them (`{cluster.CANCEL[cluster.scheduler()]} {jobs}`) and type the "
            "same command again."
        )
    except cluster.Outage as outage:
        if not workflow.local_exec:  # a machine may have the commands of a cluster and no cluster
            sys.exit(f"error: the cluster's queue does not answer ({outage}). Try again once it does.")
