"""HTTP clients that authenticate with a token."""
