"""Semantic segmentation: a class for each pixel, trained with the U-Net's weight map.

`classes` says what the classes are, `weights` how much each pixel counts; `task` is what training and
prediction ask.
"""
