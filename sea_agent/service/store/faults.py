"""Why the store refuses. Routes answer each with a problem document."""


class Missing(Exception):
    """There is no such thing, or it is somebody else's."""


class Conflict(Exception):
    """It clashes with what is stored already."""
