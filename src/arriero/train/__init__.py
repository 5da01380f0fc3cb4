"""Training: token shards and their mixture, one loop, and what keeps it fast, parallel and recoverable."""
