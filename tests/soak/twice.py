"""Start two runs at the same time: in one results folder, and in two folders of one working directory."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.soak.project import Project, Reference
from tests.soak.rows import Row

REFUSED = re.compile(r"error: .*another run is at work there \(process \d+ on ")


def in_one_folder(project: Project, reference: Reference) -> Row:
    """Start a second run in one results folder; it must end with a message, and the first must continue."""
    project.clear()
    first = project.start()
    wrong = []
    times = 0
    for job in reference.jobs[:: max(len(reference.jobs) // 4, 1)]:
        if first.await_stage({job.log}) is None:
            continue
        times += 1
        second = project.run()
        if second.status == 0 or not REFUSED.search(second.output):
            wrong.append(f"during {job.log}, unexpected output of the second run: {second.output[-1500:]}")
    answer = first.wait()
    if answer.status != 0:
        wrong.append(f"the first was disturbed: {answer.output[-1500:]}")
    elif different := reference.differences(project):
        wrong.append(f"differs from an undisturbed run: {', '.join(different)}")
    return Row("a second run in one results folder", times, times - len(wrong), {}, wrong)


def in_one_directory(projects: list[Project], references: list[Reference]) -> Row:
    """Run in two results folders of one working directory; both must end as if run separately."""
    runs = [project.start() for project in projects]
    wrong = []
    for run, project, reference in zip(runs, projects, references, strict=True):
        answer = run.wait()
        if answer.status != 0:
            wrong.append(answer.output[-1500:])
        elif different := reference.differences(project):
            wrong.append(f"differs from a separate run: {', '.join(different)}")
    return Row("two runs in one working directory", 1, int(not wrong), {}, wrong)


def soak(project: Project, reference: Reference, other: Project) -> Iterator[Row]:
    yield in_one_folder(project, reference)
    other_reference = Reference.of(other)
    project.clear()
    other.clear()
    yield in_one_directory([project, other], [reference, other_reference])
