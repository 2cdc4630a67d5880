"""All uses of Snakemake beyond its documented interface, each with its reason.

They work with Snakemake 9.27. tests/test_workflow_surface.py tests them for a new version.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from snakemake import jobs
from snakemake.dag import DAG
from snakemake.logging import LogEvent, get_event, logger
from snakemake.settings.types import DeploymentMethod, PrintDag
from snakemake.shell import shell

PLANS = "bordure_plans"  # attribute of a workflow: results folder -> function that sees its plan
HOOKS = "bordure_hooks"  # attribute of a workflow: results folder -> function that runs before its jobs
SHOWN_AS = "bordure_shown_as"  # attribute of a rule: its name in the rule graph


def is_imported(workflow: Any) -> bool:
    """Return whether another workflow imports the Snakefile that is being read (`module`).

    In an imported Snakefile the hooks do not run, and the config files on the command line are those of the
    importing workflow. Snakemake has no documented way to find out.
    """
    return not workflow.modifier.is_main_snakefile()


def own_rules(workflow: Any) -> Iterable[Any]:
    """Return the rules of the Snakefile that is being read, without those of a workflow that imports it.

    `workflow.rules` contains the rules of both.
    """
    return workflow.modifier.rules


def changes_paths(workflow: Any) -> bool:
    """Return whether the importing workflow changes our paths (`prefix`, `replace_prefix`).

    Snakemake would change the paths of the raw images, too, but not the paths in parameters.
    """
    changes = workflow.modifier.path_modifier
    return bool(changes.prefix or changes._prefix_replacements)


def wants_container(workflow: Any) -> bool:
    """Return whether jobs run in a container (`--software-deployment-method apptainer`).

    The image must be named only then: Snakemake checks its path on every run and refuses one with a space,
    even if no container is used. The setting is documented, but not how a Snakefile reads it.
    """
    return DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method


def executor_of(workflow: Any) -> Any:
    """Return the executor of a run that is about to start. No public attribute leads to it."""
    return workflow.scheduler._executor


def before_jobs(workflow: Any, results: str, function: Callable[[], None]) -> None:
    """Call `function` once before the first job of a run, never in a dry run.

    This is for an imported Snakefile: Snakemake ignores its `onstart`, and it must not replace the `onstart`
    of the importing workflow, which may be read earlier or later. A Snakefile that is imported again (`use
    rule train_model from ...`) is read again; only one function is called for each `results` folder.
    """
    if not hasattr(workflow, HOOKS):
        given: Any = type(workflow)

        class WithHooks(given):
            @property
            def _onstart(self) -> Callable[[Any], None]:
                def start(log: Any) -> None:
                    for hook in getattr(self, HOOKS).values():
                        hook()
                    self.__dict__["_onstart"](log)

                return start

            @_onstart.setter
            def _onstart(self, function: Callable[[Any], None]) -> None:
                self.__dict__["_onstart"] = function

        setattr(workflow, HOOKS, {})
        workflow.__class__ = WithHooks
    getattr(workflow, HOOKS).setdefault(results, function)


def when_planned(workflow: Any, results: str, function: Callable[[Any], None]) -> None:
    """Call `function` once with the plan (`DAG`) of a run or dry run, before the first job.

    Not for graphs, lists and other requests that run no jobs. Snakemake has no such hook: `onstart` does not
    run in a dry run.
    """
    if not hasattr(workflow, PLANS):
        given: Any = type(workflow)

        class WithPlans(given):
            def execute(self, *arguments: Any, **options: Any) -> Any:
                self.bordure_executes = True
                return super().execute(*arguments, **options)

            def _build_dag(self) -> None:
                super()._build_dag()
                executes = getattr(self, "bordure_executes", False) and not self.touch
                if executes and self.is_main_process:
                    for plan in getattr(self, PLANS).values():
                        plan(self.dag)

        setattr(workflow, PLANS, {})
        workflow.__class__ = WithPlans
    getattr(workflow, PLANS).setdefault(results, function)


def has_record(workflow: Any, job: Any) -> bool:
    """Return whether Snakemake knows with which settings the outputs of a job were made.

    It stores this in the folder `.snakemake` of the working folder, unless it runs with `--drop-metadata`.
    """
    if not workflow.execution_settings.keep_metadata:
        return True
    return bool(workflow.persistence.has_metadata(job))


def before_commands(text: str) -> None:
    """Put `text` before each shell command, including those that run scripts, and keep the existing prefix.

    `shell.prefix` would replace the prefix of an importing workflow and Snakemake's strict mode.
    """
    if text not in (given := shell._get_process_prefix("bash")):
        shell._process_prefix = text + given


def compare_adapters_by_text(workflow: Any, folder: Path) -> None:
    """Run a rule again if the text of its script changed, and not if only the date of the script is new.

    Snakemake's trigger `code` compares the date of a script with that of each output. After a fresh checkout
    or a copy all dates are new, so that it would train again. Here the hash of the text becomes a parameter
    of each rule (trigger `params`), and the dates of the scripts in `folder` count as old. This works with
    every profile and all --rerun-triggers, and does not affect the scripts of a workflow that imports this
    one.
    """
    for rule in own_rules(workflow):
        if rule.script:
            text = (folder / Path(str(rule.script)).name).read_bytes()
            rule.set_params(adapter=hashlib.sha256(text).hexdigest())
    given = jobs.get_script_mtime

    def get_script_mtime(path: str) -> float:
        return 0.0 if Path(path).parent.resolve() == folder.resolve() else given(path)

    jobs.get_script_mtime = get_script_mtime


def compare_jobs_behind_ancient_files() -> None:
    """Let jobs behind `ancient` files run again for reasons of their own, whatever runs before them.

    Snakemake does not look for reasons of jobs behind one that runs, because they run anyway. It also skips
    jobs behind `ancient` files, which do not run for this reason. So if the check ran again, other settings
    of the training, and of all that follows, had no effect.
    """
    DAG.update_needrun = _update_needrun
    DAG.bfs = _bfs


_GIVEN = {"update_needrun": DAG.update_needrun, "bfs": DAG.bfs}


async def _update_needrun(dag: Any, *arguments: Any, **options: Any) -> None:
    """Do the same as `DAG.update_needrun`, with `_bfs` for the jobs that it skips."""
    dag.bordure_skips = True
    try:
        await _GIVEN["update_needrun"](dag, *arguments, **options)
    finally:
        dag.bordure_skips = False


def _bfs(dag: Any, direction: Any, *found: Any, **options: Any) -> Iterator[Any]:
    """Yield jobs as `DAG.bfs`; in `DAG.update_needrun` without those that only `ancient` files lead to."""
    if not getattr(dag, "bordure_skips", False) or direction is not dag.depending:
        yield from _GIVEN["bfs"](dag, direction, *found, **options)
        return
    queue, visited = [*found], {*found}
    while queue:
        job = queue.pop()
        yield job
        for other, files in direction[job].items():
            if other not in visited and not all(file.is_ancient for file in files):
                visited.add(other)
                queue.append(other)


def draw_batches_as_one_node(workflow: Any) -> None:
    """Let `--rulegraph` show the batches of a stage (predict_test_1, predict_test_2, ...) as one node.

    Each batch of volumes has its own rule. Snakemake draws one node for each rule and has no option to
    combine them, so that the graph of a table with hundreds of volumes would be unreadable.
    """
    for rule in own_rules(workflow):
        setattr(rule, SHOWN_AS, re.sub("_[0-9]+$", "", rule.name))
    DAG.rule_dot = _rule_dot


def say_once(workflow: Any) -> None:
    """Let a dry run print its table of jobs once, and only those reasons that the table does not imply.

    Snakemake prints the same table at the beginning and at the end of a dry run. Its list of reasons repeats
    the name of almost every rule twice: its outputs do not exist, and another job makes its inputs. What
    remains is why existing results are made again; Snakemake repeats that in its own advice, too.
    """
    logger.addFilter(_SaidBefore())
    DAG.print_reasons = _print_reasons
    workflow.log_provenance_info = lambda: None


class _SaidBefore(logging.Filter):
    """Drops a table of jobs that is the same as the one before."""

    table = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if get_event(record) != LogEvent.RUN_INFO:
            return True
        before, self.table = self.table, record.getMessage()
        return self.table != before


def _print_reasons(dag: Any) -> None:
    """Do the same as `DAG.print_reasons`, without reasons that hold for each job of a first run."""
    implied = {"output files have to be generated", "input files updated by another job"}
    rules: dict[str, set[str]] = defaultdict(set)
    for job in dag.needrun_jobs(exclude_finished=False):
        for reason in {*dag.reason(job).get_names()} - implied:
            rules[reason].add(job.rule.name)
    if rules:
        texts = (f"\n    {reason}: {', '.join(sorted(names))}" for reason, names in sorted(rules.items()))
        logger.info(f"Reasons:{''.join(texts)}")


def _rule_dot(dag: Any) -> str:
    """Return the same as `DAG.rule_dot`, with one node for all rules that are shown under the same name."""

    def name_of(rule: Any) -> str:
        return getattr(rule, SHOWN_AS, rule.name)

    first: dict[str, Any] = {}
    graph: dict[Any, set[Any]] = defaultdict(set)
    for job in dag.jobs:
        node = first.setdefault(name_of(job.rule), job.rule)
        graph[node].update(
            first.setdefault(name_of(other.rule), other.rule) for other in dag._dependencies[job]
        )
    mermaid = dag.workflow.dag_settings.print_dag_as == str(PrintDag.MERMAID_JS)
    return (dag._mermaid_js if mermaid else dag._dot)(graph, node2label=name_of)
