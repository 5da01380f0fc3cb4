"""The server: an OpenAI-compatible API, and the web pages."""
