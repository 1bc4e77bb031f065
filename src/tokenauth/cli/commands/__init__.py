"""The subcommands, a module each; each has its click command as ``command``."""
