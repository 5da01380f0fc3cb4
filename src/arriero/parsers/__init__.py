"""One file a format family: bytes in, sections out. `arriero.parsers.parse` chooses, and cleans their text."""
