"""A tree of plain values with something odd at one place: for tests of what comes from outside."""

import copy


def places(tree, path=()):
    """Where something stands in a tree."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(part, (*path, key))


def bent(tree, path, odd):
    """The tree with something odd at one place."""
    tree = inside = copy.deepcopy(tree)
    for part in path[:-1]:
        inside = inside[part]
    old = inside[path[-1]]
    if odd == "missing":
        del inside[path[-1]]
    elif odd == "one more" and isinstance(old, list):
        old.append(odd)
    elif odd == "one more" and isinstance(old, dict):
        old[odd] = odd
    else:
        inside[path[-1]] = odd
    return tree
