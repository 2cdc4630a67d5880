"""Training: schedule, checkpoint, one step, validation, and the loop that combines them.

These modules use tasks and networks only through their interfaces (`tasks.Task`, `networks.Plan`).
"""
