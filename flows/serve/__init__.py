"""A server that follows an alias: verify, open, try beside the old version, look after, answer."""
