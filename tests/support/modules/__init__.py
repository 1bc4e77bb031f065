"""PKCS#11 modules of several makers, each with a token, and what is tried with all of them.

``providers`` makes the tokens; ``trial_script`` is the program that loads a module and tries what tokenauth does with
it, in a process and an environment of its own; ``trials`` is the tests' side of it.
"""
