"""Floor 5: documents in, cited passages out: parsing, chunking, encoding, storing, searching and answering."""
