"""Segment microscope images: from raw images and annotations to scored segmentations.

Each line below is a layer of folders and modules. Apart from itself, a folder imports only
from lower layers::

    cli                                 the command `bordure`
    corrections                         suggestions and corrected labels
    api                                 train, segment, score and measure from Python
    projects                            table and config for a folder of images
    stages                              one module per stage: reads and writes files
    training                            training loop, optimisation step, schedule, validation, saved state
    pages                               HTML pages
    tasks, figures                      what a network is trained for; pictures of arrays
    provenance, inference, instances    records of files; prediction by tiles; instances from probabilities
    networks                            one folder per network, and model files
    metrics, data                       scores; training data
    imageio                             reading and writing image files
    layout, scores, memory              content of HDF5 files; table of scores; memory needs of jobs
    kernels                             compiled loops, sections, blocks
    runtime                             errors, files, locks, signals, logs, progress, devices, processes
"""

__version__ = "1.0.0"
