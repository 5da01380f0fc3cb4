"""What the machine has."""

import pytest

from arriero.common.hardware import free_memory, processor, total_memory, usable_cpus

GIB = 2**30


def test_this_machine_has_something():
    assert processor()
    assert usable_cpus() >= 1
    assert 0 <= free_memory() <= total_memory()


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_containers_limit_counts(tmp_path, limit, used):
    group = tmp_path / "sys/fs/cgroup"
    (group / limit).parent.mkdir(parents=True)
    (group / limit).write_text(f"{2**20}\n")
    (group / used).write_text(f"{2**18}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {GIB} kB\nMemAvailable: {GIB} kB\n")
    assert total_memory(tmp_path) == 2**20
    assert free_memory(tmp_path) == 2**20 - 2**18


def test_no_limit_is_no_limit(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1\n")
    assert total_memory(tmp_path) == free_memory(tmp_path) == total_memory()
