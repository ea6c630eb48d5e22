"""What a replica does with a unit: read, score, write its part. Does not import Ray."""
