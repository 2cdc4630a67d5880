"""Training: schedule, checkpoint, one step, validation, and the loop that combines them.

These modules use tasks and networks only through their interfaces (`tasks.Task`, `networks.Plan`).
"""

VALIDATIONS = 10  # of a training whose number of iterations is chosen by time
