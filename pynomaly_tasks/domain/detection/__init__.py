"""Anomaly detection: values in, scores and reasons out."""
