"""What tokenbroker costs, measured beside references that run in the same minute on the same machine."""
