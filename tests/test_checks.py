"""The size check finds what it is for."""

import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).parents[1] / "tools" / "check_sizes.py"


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK], cwd=folder, capture_output=True, text=True)


def test_sizes_within_bounds_pass(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "noun.py").write_text("def act():\n    pass\n")
    assert run_check(tmp_path).returncode == 0


def test_each_excess_is_named(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "utils.py").write_text("x = 1\n" * 401)
    (tmp_path / "src" / "long.py").write_text("def act():\n" + "    x = 1\n" * 60)
    fields = "".join(f"    f{i}: int\n" for i in range(21))
    (tmp_path / "src" / "wide.py").write_text(f"@dataclass(frozen=True)\nclass Wide:\n{fields}")
    result = run_check(tmp_path)
    assert result.returncode == 1
    assert "401 lines" in result.stdout
    assert "name a file after what it holds" in result.stdout
    assert "act has 61 lines" in result.stdout
    assert "Wide has 21 fields" in result.stdout
