"""Training: its schedule, its state in a file, one step, validation, and the loop that joins them.

Tasks and networks are known by their interfaces alone (`tasks.Task`, `networks.Plan`).
"""
