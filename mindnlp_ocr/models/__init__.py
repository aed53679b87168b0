"""What a user holds: the model and its configuration."""
