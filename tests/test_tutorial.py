"""The tutorial: its commands run as printed, in order, and print what the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import airtune

ROOT = Path(airtune.__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "scripts").is_dir(), reason="airtune is installed without its documents"
)
SCRIPT = ROOT / "scripts" / "tutorial.py"


def follow(folder: Path, page: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(page)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_tutorial(tmp_path: Path) -> None:
    done = follow(tmp_path, ROOT / "docs" / "tutorial.md")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_first_steps_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and experiment fit each other; the long commands are those of the test above."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from tutorial import steps

    files = {
        step.file: step.text
        for step in steps((ROOT / "docs" / "tutorial.md").read_text())
        if step.kind in ("python", "yaml")
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    exec(compile(files["rows.py"], "rows.py", "exec"), {})
    seen = airtune.Experiment.load(tmp_path / "experiment.yaml").preview()
    assert (seen["train_rows"], seen["test_rows"], len(seen["clients"])) == (180, 20, 8)


PAGE = """
```python
# greet.py
print("20 words, 3.5 s")
```

```sh
python greet.py
```

```output
{shown}
...
```

```sh
{last}
```
"""


@pytest.mark.parametrize(
    ("shown", "last", "code", "said"),
    [
        ("21 words, 4 s", "true", 0, ""),
        ("21 letters, 4 s", "true", 1, "not printed: 21 letters"),
        ("21 words, 4 s", "exit 7", 7, "exit code 7"),
    ],
)
def test_the_script_stops_at_the_first_failure(
    shown: str, last: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(PAGE.format(shown=shown, last=last))
    done = follow(tmp_path / "folder", tmp_path / "page.md")
    assert (done.returncode, "20 words, 3.5 s" in done.stdout) == (code, True)
    assert re.search(said, done.stderr)
    assert follow(tmp_path / "folder", tmp_path / "page.md").returncode == 2  # not empty
