"""The parts of a report's page, one file for each."""
