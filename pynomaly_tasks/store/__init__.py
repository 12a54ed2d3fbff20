"""The database that holds the truth about jobs: SQLite in WAL mode or PostgreSQL."""
