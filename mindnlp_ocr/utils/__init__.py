"""Import paths that the request promises; the code lives elsewhere."""
