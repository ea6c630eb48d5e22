"""From tables to statistics, with polars."""
