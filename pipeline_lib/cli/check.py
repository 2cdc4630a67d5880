"""`bordure check`: compare images and annotations before anything is trained."""

from __future__ import annotations

import argparse

from pipeline_lib.cli.workflow import add_arguments, run_workflow

__all__ = ["add_arguments", "run"]

HELP = "compare images and annotations before a training"
DESCRIPTION = """\
Compare the images and annotations of a config before anything is trained: runs
the workflow up to the check, which is also the first part of each run."""

EPILOG = """\
output: check.html in the results folder, with the outlines of the annotated
cells on the images and a list of doubts. The last lines give its path.
Arguments after the config file go to Snakemake.

exit codes: 0 nothing stops a run; 1 a doubt stops it, or a file cannot be used;
            2 wrong arguments
example:    bordure check my.yaml --config data_dir=/data/nuclei"""


def run(options: argparse.Namespace) -> int:
    """Run the rule `check` of the workflow and return Snakemake's exit code.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if nothing stops a run.

    Raises
    ------
    InputError
        If there is no config file.
    """
    return run_workflow(options.config, options.snakemake, "check")
