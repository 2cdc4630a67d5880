# What a cluster is told of the rules, and what it may still be doing for an earlier run. No rules here.
from bordure import cluster

# Where all volumes together are no more than one batch, most stages take seconds each, less than their place in the queue
# costs: they share a cluster job, as groups. Training and prediction, which ask for most, have jobs of their own. A rule
# with `localrule: True` takes a second or two and no memory: where it is in no group, it runs beside Snakemake itself.
SMALL = sum(map(math.prod, SHAPES.values())) <= volumes.BATCH
PREPARE, FINISH = ("prepare", "finish") if SMALL else (None, None)
JOIN = None if FURTHER else FINISH  # the jobs of several models stay apart, and run side by side

# What the cluster knows this run's jobs by, and what profiles/cluster submits them with.
JOBS = cluster.name_of(config["results"])
os.environ.update({cluster.NAME: JOBS, cluster.PROGRAM: cluster.__file__})


# The shell around each job, told like all its processes that the end is near, waits for what runs in it.
internals.before_commands("trap : TERM; ")


def start_run():
    """Before the first job: no other run is at work in the results folder, nor are jobs of an earlier one."""
    end_orphans(alone=claim_results())


def end_orphans(alone):
    """Jobs that an earlier run left in the queue are cancelled before any is submitted: they outlive Snakemake.

    Where this run cannot be sure to be `alone` in its results folder, they may be another's, and are left to it.
    """
    executor = internals.executor_of(workflow)
    if hasattr(executor, "run_uuid"):  # the Slurm plugin calls jobs by a random name of each run
        executor.run_uuid = JOBS
    try:
        cluster.cancel_orphans(JOBS, 0 if workflow.local_exec else cluster.OUTAGE, alone)
    except cluster.Contended as jobs:
        sys.exit(
            f"error: {config['results']} lies on a file system without locks, and jobs of it are in the queue: {jobs}. "
            f"If no other run is at work there, end them (`scancel {jobs}`) and type the same command again."
        )
    except cluster.Outage as outage:
        if not workflow.local_exec:  # a machine may have the commands of a cluster and no cluster
            sys.exit(f"error: the cluster's queue does not answer ({outage}). Try again once it does.")
