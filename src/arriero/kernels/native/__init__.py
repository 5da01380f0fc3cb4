"""C++ for the CPU, compiled on first use where there is a compiler: decoding with packed matrices."""
