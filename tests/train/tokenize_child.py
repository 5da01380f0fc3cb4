"""Run by test_tokenize.py in a process of its own, to be killed, or to meet a full disk.

Usage: tokenize_child.py DOCS FOLDER WORKERS MOMENT. MOMENT is a number n (killed with SIGKILL before the n-th file gets
its name), `never`, or `full` (files end at 20 kB, as on a full disk).
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError
from arriero.train.tokenize import ShardOptions, tokenize_files
from tests.train.shard_folders import byte_tokenizer


def main() -> None:
    """Tokenize, up to the moment."""
    docs, folder, workers, moment = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if moment == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    elif moment != "never":
        replace, calls = Path.replace, 0

        def die(self: Path, target: Any) -> Path:
            nonlocal calls
            calls += 1
            if calls == int(moment):
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = die  # type: ignore[method-assign]
    size = 100_000 if moment == "full" else 400
    options = ShardOptions(source="s", shard_tokens=size, validation_share=0.2)
    try:
        tokenize_files([docs], byte_tokenizer(), folder, options, workers=workers)
    except ArrieroError as error:
        print(error)
        sys.exit(2)


if __name__ == "__main__":
    main()
