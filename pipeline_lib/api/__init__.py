"""Train, segment, score and measure from Python: arrays or files in, arrays or files out.

The functions run the same stages as the workflow and the command `bordure`, with the same results. Progress
is printed unless the program has set up logging itself. Heavy libraries are imported when they are needed.

An image is an array or a path:

- Arrays are (y, x), (z, y, x) or, with channels first, (c, z, y, x). Anything that `numpy.asarray` converts
  is accepted.
- Paths are text or `Path`: files, folders of slices or `file.h5:/dataset`, in any format of `imageio`.
"""

from pipeline_lib.api.models import Model, load
from pipeline_lib.api.scoring import evaluate, measure
from pipeline_lib.api.training import train

__all__ = ["Model", "evaluate", "load", "measure", "train"]
