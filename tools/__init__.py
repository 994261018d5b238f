"""The instruments: arithmetics, bounds, strategies, checks, diagnosis, report, command line and pytest plugin."""
