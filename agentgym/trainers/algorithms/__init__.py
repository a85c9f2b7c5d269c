"""Named algorithms, one published method a file, in a folder by what gets credit. Importing a file registers it.

``episode_level``: the episode as a whole; ``turn_level``: each turn by itself; ``branching``: turns of episodes that
were forked from each other; ``tool_use``: how tools are used.
"""
