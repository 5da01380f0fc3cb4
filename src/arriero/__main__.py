"""`python -m arriero`, the same program as the `arriero` command."""

from arriero.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
