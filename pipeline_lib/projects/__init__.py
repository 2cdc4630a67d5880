"""Table of volumes and config for a folder of images, as `bordure init` writes them."""
