"""Rules as data: tuples of small functions that stages apply, and that users add to."""
