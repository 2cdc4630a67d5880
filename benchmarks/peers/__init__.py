"""Other packages, trained on the same images for the same time, and scored by the scores of bordure."""
