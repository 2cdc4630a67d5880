"""`bordure evaluate`: score a probability map of any tool against an annotation."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.imageio import ANNOTATION_KINDS

SHOWN = ["metric", "best", "threshold", "pixel_error", "rand_error", "v_rand_thin", "warping_error"]

DESCRIPTION = """\
Score a probability map against an annotation, written by any tool: TIFF stacks,
folders of PNG or TIFF slices, or HDF5 datasets (FILE.h5:/DATASET)."""

EPILOG = """\
output: for each score, its best value over the thresholds 0, 0.1, ..., 1, and
other scores at that threshold; then the instance scores at the threshold with
the best SEG. Errors: 0 is perfect. V scores and instance scores: 1 is perfect.
All scores are explained in docs/explanation/scores.md.

exit codes: 0 scored; 1 a file cannot be read or scored; 2 wrong arguments
example:    bordure evaluate truth.tif probability.tif --csv scores.csv"""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add the parser of `bordure evaluate` to those of `bordure`.

    Parameters
    ----------
    subparsers : argparse._SubParsersAction
        Result of `ArgumentParser.add_subparsers`.

    Returns
    -------
    argparse.ArgumentParser
        The new parser. It can be shown in the documentation without running the command.
    """
    parser = subparsers.add_parser(
        "evaluate",
        help="score a probability map against an annotation",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "truth", type=Path, help="annotation, (z, y, x) or (y, x): membranes or instance labels"
    )
    parser.add_argument(
        "cell_probability",
        type=Path,
        help="probability of each pixel to be inside a cell, same shape; 0 to 1, or uint8 from 0 to 255",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="also write every score at every threshold to this file"
    )
    parser.add_argument(
        "--annotation-kind",
        choices=ANNOTATION_KINDS,
        default="auto",
        metavar="KIND",
        help=f"content of the annotation; auto infers it ({', '.join(ANNOTATION_KINDS)}; default: auto)",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the best value of each score with other scores at its threshold, and return exit code 0.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        If a file cannot be read or scored.
    """
    from pipeline_lib import metrics
    from pipeline_lib.runtime.files import replacing
    from pipeline_lib.stages.evaluation import score_files

    scores = score_files(options.truth, options.cell_probability, annotation_kind=options.annotation_kind)
    if options.csv:
        with replacing(options.csv) as temporary:
            scores.to_csv(temporary, index=False)
    print("\nBest value of each score over the thresholds, and other scores at that threshold:\n")
    print(metrics.summary_table(scores)[SHOWN].to_string(index=False, float_format="%.4f"))
    of_instances = scores[scores.metric.isin(metrics.INSTANCE_METRICS)]
    at = of_instances.pivot(index="threshold", columns="metric", values="value")
    best = at.seg.idxmax()
    print(f"\nInstance scores at the threshold with the best SEG ({best:.1f}):\n")
    print(at.loc[[best], list(metrics.INSTANCE_METRICS)].to_string(index=False, float_format="%.4f"))
    return 0
