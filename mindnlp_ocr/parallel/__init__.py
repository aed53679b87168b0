"""Processes under msrun that compute one network together or share pages: their environment and collectives."""
