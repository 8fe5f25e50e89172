"""How much memory it takes to build the states of a million bars, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measurement import Effort, Measurement, remark

# What the process holds before is subtracted from its peak: the bars, the compiled kernels and everything imported.
_PROGRAM = """
import datetime as dt, json, resource, sys
from finsense.market.instruments import instrument
from finsense.market.simulate import SimulatedMarket
from finsense.market.timeline import timeline
from finsense.state.builder import build_states
from finsense.state.spec import StateSpec

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

last = dt.date(2025, 12, 31)
market = {"model": "random_walk", "interval": "1m", "last": last, "seed": 1}
spec = StateSpec.model_validate({"features": ["full"], "warmup": 350})
days = int(sys.argv[1])
bars = SimulatedMarket.model_validate({**market, "first": last - dt.timedelta(days=days)}).load()["SIM"]
build_states(timeline(bars.take(0, 375 * 4), instrument("SIM"), None), spec)
described = timeline(bars, instrument("SIM"), None)
before = resident_bytes()
matrix = build_states(described, spec)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([len(bars), matrix.rows.nbytes, peak - before]))
"""
# Eleven years of 1-minute bars of one symbol are a million.
_DAYS = 3980


def build_memory(effort: Effort) -> list[Measurement]:
    """The peak of `build_states` with `full` over a million 1-minute bars of a symbol, beside the matrix it returns."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(effort.count(_DAYS, 21))],
        env=os.environ,
        cwd=Path(__file__).resolve().parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    count, matrix, peak = json.loads(result.stdout)
    remark(f"build_memory: {count:,} bars, a matrix of {matrix / 2**20:,.0f} MiB, {peak / 2**20:,.0f} MiB at the peak")
    return [Measurement("build_memory", peak, "bytes", "the matrix alone", matrix, matrix / peak)]
