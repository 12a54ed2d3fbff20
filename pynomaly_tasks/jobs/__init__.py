"""The job engine: submit, run, settle, rescue, cancel, replay."""
