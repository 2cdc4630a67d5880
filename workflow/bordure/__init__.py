"""Python code of the workflow, in a package so that no name clashes with one of an importing workflow."""
