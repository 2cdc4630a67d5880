"""From raw microscope images and annotations to scored segmentations."""
