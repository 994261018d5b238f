"""What is fast: torch and Triton, with the file names, function names and argument order of the reference."""
