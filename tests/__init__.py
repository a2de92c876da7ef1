"""Example-based tests: one file per noun, one case per complaint a user of a converter could have."""
