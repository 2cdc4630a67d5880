"""`bordure run`: run the workflow from raw images to the report."""

from __future__ import annotations

import argparse

from pipeline_lib.cli.workflow import add_arguments, run_workflow

__all__ = ["add_arguments", "run"]

HELP = "run the workflow: from images to a trained model and a report"
DESCRIPTION = """\
Run the whole workflow of a config: check, training, prediction, scores, report.
It prints the Snakemake command that it stands for. A run that was interrupted
continues with the same command."""

EPILOG = """\
output: report.html, model.pt, scores.csv and segmentation/ in the results
folder. The last lines give their paths. Arguments after the config file go to
Snakemake.

exit codes: 0 complete; 1 a job failed or a file cannot be used; 2 wrong
            arguments
example:    bordure run my.yaml --cores 4"""


def run(options: argparse.Namespace) -> int:
    """Run the workflow and return Snakemake's exit code.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if the run is complete.

    Raises
    ------
    InputError
        If the workflow is not installed with this package, or there is no config file.
    """
    return run_workflow(options.config, options.snakemake)
