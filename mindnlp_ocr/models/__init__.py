"""The model for users, with its requests, limits and export."""
