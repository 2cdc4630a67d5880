"""From raw microscope images and annotations to scored segmentations."""

__version__ = "0.1.0"
