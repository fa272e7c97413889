"""The command line: flags in, a call to the rooms below, lines out."""
