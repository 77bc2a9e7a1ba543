"""The same decision in other systems' words, for images whose owners want their system's own files instead of an agent.

Each format is a pure function of what metadata tells. What a format can't express is said in it, at its place, with the
consequence.
"""
