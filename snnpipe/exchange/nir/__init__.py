"""Networks to and from NIR, the neuromorphic intermediate representation, in which other simulators read them."""
