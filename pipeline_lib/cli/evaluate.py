"""`bordure evaluate`: score a probability map, of any tool, against an annotation."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.imageio import ANNOTATION_KINDS

SHOWN = ["metric", "best", "threshold", "pixel_error", "rand_error", "v_rand_thin", "warping_error"]


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add this subcommand's parser to those of `bordure`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score a probability map against an annotation",
        description="Score a probability map against an annotation. Both may be written by any tool.",
    )
    parser.add_argument("truth", type=Path, help="annotation: membranes or instance labels")
    parser.add_argument("cell_probability", type=Path, help="probability of cell, 0..1 or 0..255")
    parser.add_argument("--csv", type=Path, help="write every score at every threshold to this file")
    parser.add_argument("--annotation-kind", choices=ANNOTATION_KINDS, default="auto")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the best value of each score and the other scores at its threshold; 0."""
    from pipeline_lib import metrics
    from pipeline_lib.runtime.files import replacing
    from pipeline_lib.stages.evaluation import score_files

    scores = score_files(options.truth, options.cell_probability, annotation_kind=options.annotation_kind)
    if options.csv:
        with replacing(options.csv) as temporary:
            scores.to_csv(temporary, index=False)
    print("\nThe best of each score over the thresholds, and the other scores at that threshold:\n")
    print(metrics.summary_table(scores)[SHOWN].to_string(index=False, float_format="%.4f"))
    of_instances = scores[scores.metric.isin(metrics.INSTANCE_METRICS)]
    at = of_instances.pivot(index="threshold", columns="metric", values="value")
    best = at.seg.idxmax()
    print(f"\nInstances, at the threshold with the best SEG ({best:.1f}):\n")
    print(at.loc[[best], list(metrics.INSTANCE_METRICS)].to_string(index=False, float_format="%.4f"))
    return 0
