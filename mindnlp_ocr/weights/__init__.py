"""Reading, checking, converting and merging of weights."""
