"""The servers and processes of a platform that runs on one machine with one command."""
