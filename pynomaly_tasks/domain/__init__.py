"""The work itself: values in, values out; no database, no broker, no clock."""
