"""What the files in a memory's directory are called."""

DATABASE_NAME = "memory.sqlite3"
LOG_NAME = f"{DATABASE_NAME}-wal"
LOCK_NAME = "lock"
SNAPSHOT_NAME = "index.snapshot"
