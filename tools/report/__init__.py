"""What a run found, as a table, a page, JSON and JUnit XML."""
