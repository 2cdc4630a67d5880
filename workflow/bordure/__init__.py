"""Python code of the workflow. The package avoids name clashes with modules of an importing workflow."""
