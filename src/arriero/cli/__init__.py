"""Floor 8: the commands, thin: parse, call one function, print."""
