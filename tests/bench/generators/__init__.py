"""Load generators: processes that print one JSON object. `wire` is what they have in common."""
