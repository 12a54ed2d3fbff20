"""One file, one process, one line of the Procfile."""
