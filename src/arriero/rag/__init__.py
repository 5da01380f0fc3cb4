"""Floor 5: documents in, passages out: parsing, chunking, encoding, storing, searching, and answering with citations."""
