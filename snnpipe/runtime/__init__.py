"""Running a converted network: encodings of the input, and the network module."""
