"""Processes that compute one network together, or share pages: what msrun tells them, and their collectives."""
