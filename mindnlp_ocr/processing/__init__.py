"""Preprocessing: chat messages to token ids, and images to patches."""
