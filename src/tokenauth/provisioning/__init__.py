"""Writing to tokens: keys generated in them, certificates put beside the keys."""
