"""Semantic segmentation: each pixel gets a class; training uses the U-Net's weight map.

`classes` defines the classes, `weights` the weight map and `losses` the loss. `task` implements the interface
`tasks.Task`, which training and prediction use.
"""
