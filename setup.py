"""Put the workflow into the package, so that `bordure run` works without a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithWorkflow(build_py):
    """Copy the workflow and what it names to where `pipeline_lib.cli.workflow` looks for them."""

    def run(self):
        super().run()
        if not self.editable_mode:  # a package in development uses the checkout itself
            package = Path(self.build_lib, "pipeline_lib")
            without = shutil.ignore_patterns("__pycache__")
            for folder in ("workflow", "profiles"):
                shutil.copytree(folder, package / folder, ignore=without, dirs_exist_ok=True)
            shutil.copy("environment.yml", package)


setup(cmdclass={"build_py": WithWorkflow})
