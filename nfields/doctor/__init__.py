"""A set of posed images, checked before training: what is wrong with it, and how to mend it."""
