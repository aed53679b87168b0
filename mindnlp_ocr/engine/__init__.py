"""Requests to tokens: compiled graphs and the loop over them."""
