"""Reference models of Keras 3, on whatever backend it runs: the architecture by its config, never by code in it."""
