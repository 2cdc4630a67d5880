# Grouping of rules into cluster jobs, and jobs that an earlier run left in the queue. This file has no rules.
from bordure import cluster

# If all volumes together are at most one batch, most stages take seconds, less than waiting in the queue.
# They are put into groups, each of which is one cluster job. Training and prediction need the most resources
# and have separate jobs. `localrule: True` marks stages that take a second or two and little memory; outside
# a group they run on the machine where Snakemake runs.
SMALL = sum(map(math.prod, SHAPES.values())) <= volumes.BATCH and not SCATTERED
PREPARE, FINISH = ("prepare", "finish") if SMALL else (None, None)
# Weight maps and baselines are made in the same job as datasets and check, but not in a later run: a group must
# not depend on itself over a job that is done. The statistics are such a job, because they wait for the check.
LATER = workflow.is_main_process and Path(config["results"], "statistics.json").exists()
DERIVE = "derive" if PREPARE and LATER else PREPARE
# With further models, the jobs of each model stay separate and run in parallel.
JOIN = None if FURTHER else FINISH
# Masks are predicted in between, in a job of its own, which may need a GPU.
DETECT = "detect" if FINISH and MASKED else FINISH

# Name of this run's jobs in the queue, and environment variables for profiles/cluster.
JOBS = cluster.name_of(config["results"])
os.environ.update({cluster.NAME: JOBS, cluster.PROGRAM: cluster.__file__})


# All processes of a job receive SIGTERM before its time limit. With this trap the shell waits for its
# commands to end.
internals.before_commands("trap : TERM; ")


def start_run():
    """Lock the results folder, cancel jobs of an earlier run, and record the batches, before the first job."""
    end_orphans(exclusive=claim_results())
    record_batches()


def end_orphans(exclusive):
    """Cancel jobs that an earlier run left in the queue. Cluster jobs continue when Snakemake is killed.

    Without an `exclusive` lock of the results folder they may belong to another run; then this run ends.
    """
    executor = internals.executor_of(workflow)
    if hasattr(executor, "run_uuid"):  # the Slurm plugin would give jobs a random name for each run
        executor.run_uuid = JOBS
    try:
        cluster.cancel_orphans(JOBS, 0 if workflow.local_exec else cluster.OUTAGE, exclusive)
    except cluster.Contended as jobs:
        sys.exit(
            f"error: {config['results']}: its file system has no locks, and jobs for this folder are in the "
            f"queue: {jobs}. If no other run uses it, cancel them (`scancel {jobs}`) and run the same "
            "command again."
        )
    except cluster.Outage as outage:
        if not workflow.local_exec:  # a machine may have the commands of a cluster without a cluster
            sys.exit(
                f"error: the queue of the cluster does not answer ({outage}). Run the same command again "
                "when it does."
            )
