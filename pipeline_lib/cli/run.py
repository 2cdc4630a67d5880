"""`bordure run`: run the workflow from raw images to the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pipeline_lib.cli import workflow

HELP = "run the workflow: from images to a trained model and a report"
DESCRIPTION = """\
Run the whole workflow of a config: check, training, prediction, scores, report.
It prints the Snakemake command that it stands for. A run that was interrupted
continues with the same command. A run that would replace a trained model asks
first; the old model is kept beside the new one."""

EPILOG = """\
output: report.html, model.pt, scores.csv and segmentation/ in the results
folder. The last lines give their paths. Arguments after the config file go to
Snakemake.

exit codes: 0 complete; 1 a job failed or a file cannot be used; 2 wrong
            arguments
example:    bordure run my.yaml --cores 4"""


REPLACE = "--replace"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument(REPLACE, action="store_true", help="replace a trained model without asking")
    workflow.add_arguments(parser)


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
        If there is no config file.
    """
    arguments = [word for word in options.snakemake if word != REPLACE]  # may follow the config file, too
    if options.replace or REPLACE in options.snakemake:
        arguments = _with_setting(arguments, "replace=True")
    return workflow.run_workflow(options.config, arguments)


def _with_setting(arguments: Sequence[str], setting: str) -> list[str]:
    """Add a setting to the last `--config` of Snakemake's arguments, the only one that counts."""
    words = list(arguments)
    for place in reversed(range(len(words))):
        word = words[place]
        if word in ("-C", "--config"):
            return [*words[: place + 1], setting, *words[place + 1 :]]
        if word.startswith("--config=") or (word.startswith("-C") and "=" in word):
            first = word.removeprefix("--config=").removeprefix("-C")
            return [*words[:place], "--config", setting, first, *words[place + 1 :]]
    return [*words, "--config", setting]
