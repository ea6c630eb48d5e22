"""The tables: Arrow schema, the commit of a part, and reading back, on a local disk or an object store."""
