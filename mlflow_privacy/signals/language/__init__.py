"""What a language model says about a text."""
