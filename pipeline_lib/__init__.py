"""From raw microscope images and annotations to scored segmentations.

A folder is a layer: it imports from those below it, never from one beside or above it.

    cli                                 the command `bordure`
    stages                              one module per stage: paths and settings in, files out
    training                            state, step, schedule, validation and loop
    tasks, figures, pages               what a network is trained for; arrays to pictures; HTML
    provenance, inference, instances    records of files; tiles; probabilities to instances
    networks                            one folder per network, and model files
    metrics, data                       scores; what a network is fed with
    imageio                             image files <-> arrays
    layout, scores, memory              what is in the files; what the jobs need
    kernels                             compiled loops, sections, blocks
    runtime                             errors, files, locks, signals, log, devices, processes
"""

__version__ = "0.1.0"
