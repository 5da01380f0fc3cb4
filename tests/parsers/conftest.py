"""What becomes of a file, in a word."""

from collections.abc import Callable

import pytest

from arriero.common.errors import FormatError
from arriero.parsers.parse import parse_bytes


@pytest.fixture(scope="session")
def outcome() -> Callable[[str, bytes], str]:
    """Parsing told in a word: 'parsed', 'refused' by one line that names the file, or that line where it doesn't."""

    def tell(name: str, data: bytes) -> str:
        try:
            parse_bytes(name, data)
        except FormatError as error:
            message = str(error)
            return "refused" if message.startswith(f"{name}: ") and "\n" not in message else message
        return "parsed"

    return tell
