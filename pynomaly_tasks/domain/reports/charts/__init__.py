"""Geometry of the report's drawings, in the units of their view boxes; the templates draw it."""
