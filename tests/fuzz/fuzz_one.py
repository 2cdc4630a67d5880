"""Fuzz one target with atheris: `python -m tests.fuzz.fuzz_one TARGET [options of libFuzzer]`."""

import resource
import sys

import atheris

INSTRUMENTED = [
    "pipeline_lib",
    "bordure",
    "tifffile",
    "yaml",
    "zipfile",
    "csv",
    "torch._weights_only_unpickler",
]
ADDRESS_SPACE = 12 * 2**30  # bytes; larger allocations raise MemoryError, as in the dry run

target = sys.argv.pop(1)
with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
    from tests.fuzz import targets

    if target == "model":
        import pipeline_lib.networks  # noqa: F401


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    return targets.with_checksums(atheris.Mutate(data, largest))


resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.getrlimit(resource.RLIMIT_AS)[1]))
mutator = {"custom_mutator": mutate} if target == "png" else {}
atheris.Setup(sys.argv, lambda data: targets.check(target, data), **mutator)
atheris.Fuzz()
