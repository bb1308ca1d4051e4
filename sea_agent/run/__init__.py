"""The life of one run: checked, assembled, carried through, resumed, summed up, inspected."""
