"""Everything that reaches into Snakemake beyond its documented interface, each with its reason.

Tried with Snakemake 9.27. A new version is tested by tests/test_workflow_surface.py.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from snakemake import jobs
from snakemake.dag import DAG
from snakemake.settings.types import DeploymentMethod, PrintDag
from snakemake.shell import shell

HOOKS = "bordure_hooks"  # attribute of a workflow: results folder -> what runs before its jobs
SHOWN_AS = "bordure_shown_as"  # attribute of a rule: its name in the rule graph


def is_imported(workflow: Any) -> bool:
    """Whether another workflow imports the Snakefile that is being read (`module`).

    Snakemake does not tell a Snakefile so, and several things differ: hooks do not run, the config files on
    the command line are not ours.
    """
    return not workflow.modifier.is_main_snakefile()


def own_rules(workflow: Any) -> Iterable[Any]:
    """The rules of the Snakefile that is being read, without those of a workflow that imports it.

    `workflow.rules` has the rules of both.
    """
    return workflow.modifier.rules


def changes_paths(workflow: Any) -> bool:
    """Whether the importing workflow puts a prefix before our paths (`prefix`, `replace_prefix`).

    Snakemake would put it before the raw images, too, and not before the paths among the parameters.
    """
    changes = workflow.modifier.path_modifier
    return bool(changes.prefix or changes._prefix_replacements)


def wants_container(workflow: Any) -> bool:
    """Whether jobs run in a container (`--software-deployment-method apptainer`).

    Snakemake checks the path of the image on every run and refuses one with a space, even where no container
    is asked for. The setting is documented, but not how a Snakefile reads it.
    """
    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def executor_of(workflow: Any) -> Any:
    """The executor of a run that is about to start. No public attribute leads to it."""
    return workflow.scheduler._executor


def before_jobs(workflow: Any, results: str, function: Callable[[], None]) -> None:
    """Call `function` once before the first job of a run, never in a dry run.

    For an imported Snakefile, whose `onstart` Snakemake leaves out, and which must not replace the `onstart`
    of the workflow that imports it, be that read before or after. A Snakefile that is imported again (`use
    rule train_model from ...`) is read again: for each `results` folder one function counts.
    """
    if not hasattr(workflow, HOOKS):
        given = type(workflow)

        class WithHooks(given):
            @property
            def _onstart(self) -> Callable[[Any], None]:
                def start(log: Any) -> None:
                    for hook in getattr(self, HOOKS).values():
                        hook()
                    vars(self)["_onstart"](log)

                return start

            @_onstart.setter
            def _onstart(self, function: Callable[[Any], None]) -> None:
                vars(self)["_onstart"] = function

        setattr(workflow, HOOKS, {})
        workflow.__class__ = WithHooks
    getattr(workflow, HOOKS).setdefault(results, function)


def before_commands(text: str) -> None:
    """Put `text` before each shell command, those of scripts included, and keep what is there.

    `shell.prefix` replaces what an importing workflow has set, and Snakemake's own strict mode.
    """
    if text not in (given := shell._get_process_prefix("bash")):
        shell._process_prefix = text + given


def compare_adapters_by_text(workflow: Any, folder: Path) -> None:
    """A rule runs again when the text of its script changed, not when the date of the script is new.

    Snakemake's trigger `code` compares the date of a script with that of each output: after a fresh checkout
    or a copy, which have new dates, it would train again. Here the hash of the text is a parameter of each
    rule (trigger `params`), and the dates of the scripts in `folder` count as old. So it works with every
    profile and every --rerun-triggers, and in a workflow that imports this one, whose own scripts are
    compared as ever.
    """
    for rule in own_rules(workflow):
        if rule.script:
            text = (folder / Path(str(rule.script)).name).read_bytes()
            rule.set_params(adapter=hashlib.sha256(text).hexdigest())
    given = jobs.get_script_mtime

    def get_script_mtime(path: str) -> float:
        return 0.0 if Path(path).parent.resolve() == folder.resolve() else given(path)

    jobs.get_script_mtime = get_script_mtime


def draw_batches_as_one_node(workflow: Any) -> None:
    """`--rulegraph` shows the batches of a stage (predict_test_1, predict_test_2, ...) as one node.

    One rule per batch is how a job takes many volumes; a table of hundreds would give a graph that nobody can
    read. Snakemake draws a node for each rule and has no option for it.
    """
    for rule in own_rules(workflow):
        setattr(rule, SHOWN_AS, re.sub("_[0-9]+$", "", rule.name))
    DAG.rule_dot = _rule_dot


def _rule_dot(dag: Any) -> str:
    """As `DAG.rule_dot`, with one node for all rules that are shown by one name."""

    def name_of(rule: Any) -> str:
        return getattr(rule, SHOWN_AS, rule.name)

    first: dict[str, Any] = {}
    graph = defaultdict(set)
    for job in dag.jobs:
        node = first.setdefault(name_of(job.rule), job.rule)
        graph[node].update(
            first.setdefault(name_of(other.rule), other.rule) for other in dag._dependencies[job]
        )
    mermaid = dag.workflow.dag_settings.print_dag_as == str(PrintDag.MERMAID_JS)
    return (dag._mermaid_js if mermaid else dag._dot)(graph, node2label=name_of)
