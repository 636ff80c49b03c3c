"""The code of ejected files: each block is one concept, and works here as it does there.

A file is made of these functions and of one class. What a row does not need stays behind: an
`if row.…` keeps one branch, and a function that nothing calls is left out. A block reads its
hyper-parameters from the group, and its docstring describes them under `Attributes:`.
"""
