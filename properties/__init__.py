"""Why we believe: the declaration of every formula, and the laws it obeys."""
