"""What can go wrong, by whose fault it is: the set-up's (stop) or one page's (go on with the others)."""


class OCRError(Exception):
    """Base of every error raised on purpose. The message is one line: what is wrong, and the remedy."""


class SetupError(OCRError):
    """The model, the device or the configuration cannot be used; no page can be read."""


class PageError(OCRError):
    """This page or prompt cannot be read; others can."""
