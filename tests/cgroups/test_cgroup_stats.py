"""The figures of a running group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontain.cgroups.stats import CpuStats, Place, Stats, parse_pressure, read_stats

AVERAGES = st.decimals(min_value=0, max_value=100, places=2)


@given(st.lists(AVERAGES, min_size=6, max_size=6), st.integers(0, 2**63))
def test_pressure_is_read_as_the_kernel_writes_it(averages: list[object], total: int) -> None:
    lines = [
        f"{kind} avg10={a} avg60={b} avg300={c} total={total}"
        for kind, (a, b, c) in (("some", averages[:3]), ("full", averages[3:]))
    ]
    pressure = parse_pressure("\n".join(lines) + "\n")
    assert pressure is not None
    assert pressure.full is not None
    assert (pressure.some.avg10, pressure.full.avg300) == (float(averages[0]), float(averages[5]))  # type: ignore[arg-type]
    assert pressure.some.total_time == pytest.approx(total / 1e6)


def test_pressure_without_the_full_line_is_that_of_older_kernels() -> None:
    pressure = parse_pressure("some avg10=1.50 avg60=0.00 avg300=0.00 total=2000000\n")
    assert pressure is not None
    assert (pressure.some.avg10, pressure.some.total_time, pressure.full) == (1.5, 2.0, None)


def test_an_empty_pressure_file_is_no_pressure() -> None:
    assert parse_pressure("") is None


def test_the_figures_of_a_group_that_is_gone_are_empty(tmp_path: object) -> None:
    legacy = Place(1, frozenset({"memory", "pids", "blkio", "cpu"}), f"{tmp_path}/gone")
    places = [legacy, Place(2, frozenset(), f"{tmp_path}/no")]
    stats = read_stats(places)
    assert (stats.memory, stats.pids, stats.io, stats.hugetlb, stats.cpu_pressure) == (None, None, (), (), None)
    assert stats.cpu == CpuStats()


def _stats(taken: float, usage: float | None) -> Stats:
    return Stats(taken, CpuStats(usage_time=usage), None, None, (), (), None, None, None)


def test_the_percentage_of_a_processor_is_of_the_time_between() -> None:
    assert _stats(12.0, 3.0).with_cpu_percent(10.0, 2.0).cpu.percent == 50.0


def test_there_is_no_percentage_without_the_times_or_a_while() -> None:
    assert _stats(12.0, None).with_cpu_percent(10.0, 2.0).cpu.percent is None
    assert _stats(12.0, 3.0).with_cpu_percent(10.0, None).cpu.percent is None
    assert _stats(12.0, 3.0).with_cpu_percent(12.0, 2.0).cpu.percent is None
