"""Profile one training step by operator: `python -m benchmarks.profile_training [BASE_CHANNELS]`.

The step is that of the training stage on a 572 px tile, by default with 16 base channels.
"""

from __future__ import annotations

import sys

import torch
from torch.profiler import profile

from benchmarks.bench_training import TILE, our_step
from pipeline_lib import networks
from pipeline_lib.inference.passes import keep_memory
from pipeline_lib.runtime.devices import choose_device

SHOWN = 12


def main() -> None:
    device = choose_device("auto")
    keep_memory()  # as the stage does
    out = networks.plan("unet").geometry.output_size(TILE)
    batch = torch.randn(1, 1, TILE, TILE, device=device), torch.ones(1, 2, out, out, device=device)
    step = our_step({"base_channels": int(sys.argv[1]) if sys.argv[1:] else 16}, device, "adam")
    for _ in range(3):
        step(batch)
    with profile() as profiler:
        for _ in range(3):
            step(batch)
    events = profiler.key_averages()
    time = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    total = sum(getattr(event, time) for event in events)
    print(f"{total / 3000:.0f} ms per step")
    for event in sorted(events, key=lambda event: -getattr(event, time))[:SHOWN]:
        print(f"{getattr(event, time) / total:6.1%}  {event.count // 3:4} x  {event.key}")


if __name__ == "__main__":
    main()
