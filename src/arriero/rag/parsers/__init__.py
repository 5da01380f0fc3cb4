"""One file a format family: bytes in, sections out. `arriero.rag.parse` chooses among them and cleans their text."""
