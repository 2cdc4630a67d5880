"""Pictures of volumes, errors, training and scores as PNG files: same inputs, same bytes.

Every picture describes itself (`describe`), so that a report can lay out its panels anew and tell its counts.
"""

from pipeline_lib.figures.charts import draw_thresholds, draw_training
from pipeline_lib.figures.errors import draw_errors
from pipeline_lib.figures.sheet import describe
from pipeline_lib.figures.volume import draw_volume_strip

__all__ = ["describe", "draw_errors", "draw_thresholds", "draw_training", "draw_volume_strip"]
