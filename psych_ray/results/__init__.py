"""The tables: Arrow schema, parts and their footers, snapshots, reading, and the store that holds the files."""
