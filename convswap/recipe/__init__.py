"""A whole run as data, and the job that does it."""
