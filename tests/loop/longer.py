"""A prior score of a test: longer responses are better."""


def longer(rows):
    return [float(len(response)) for _, response in rows]
