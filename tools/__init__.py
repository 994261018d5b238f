"""The instruments: arithmetics, bounds, strategies, checks, diagnosis, report, command line, plugin."""
