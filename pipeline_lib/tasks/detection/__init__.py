"""Object detection: each object gets a class, a box, a score and, if wanted, a mask.

`masks` predicts the pixels of the object in each box, and makes instance labels of them.
"""
