"""Private and undocumented interfaces of libraries, each with its reason and the version it was seen in.

Everything that may change with a release of a library without notice is here, one module a library, and nowhere else.
Each library is imported inside the functions that use it: importing a module of this package imports none of them.
`tests/test_compat.py` has a test for each interface that names it in one line when it is gone.
"""
