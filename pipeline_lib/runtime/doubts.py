"""Doubts: what looks wrong in images or annotations, although it is allowed. The check lists them."""

from __future__ import annotations

from pipeline_lib.runtime.types import Json

#: Each doubt and its title.
DOUBTS = {
    "copies": "The same images are in two splits",
    "wrong_pair": "The annotation does not fit the image",
    "gray_levels": "The annotation looks like an image",
    "anti_aliasing": "The edges of the annotation have colours of their own",
    "inverted": "The annotation looks inverted",
    "whole_section": "One cell covers most of a section",
    "lost_in_border": "Cells are lost in the separation border",
    "hollow": "Labels are outlines that are not filled",
    "sentinel": "A label may mean not annotated",
    "several_areas": "Labels have several areas",
    "gray_scale": "Other gray levels than the training volumes",
    "contrast": "Cells are darker or brighter than elsewhere",
    "no_cells": "No annotated cells",
    "no_validation_cells": "No annotated cells to choose a threshold by",
    "small_cells": "Very small cells",
    "duplicates": "The same images are in the split twice",
    "context": "The images are smaller than the view of the network",
}


def doubt(name: str, weight: float, text: str, section: int | None = None) -> Json:
    """Return a doubt about a volume.

    Parameters
    ----------
    name : str
        One of `DOUBTS`.
    weight : float
        From 0 to 1; 1 is a certain mistake.
    text : str
        What was found, and what to do.
    section : int, optional
        Section that shows it, counted from 0.

    Returns
    -------
    dict
        These values.
    """
    return {"name": name, "weight": round(weight, 2), "text": text, "section": section}
