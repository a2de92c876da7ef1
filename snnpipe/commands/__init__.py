"""The commands of the command line: each is a function from its arguments to an ``Answer``, and none of them prints."""
